//! Certificates for servers on the loopback address, made anew by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::process::{find, run};

const CONFIG: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = teamster tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:127.0.0.1, DNS:localhost
extendedKeyUsage = serverAuth
";

/// A server's certificate and the authority that signed it, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// What a client is to trust.
    pub authority: PathBuf,
    /// What the server shows, for `127.0.0.1` and `localhost`.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a folder, and an authority for it.
    ///
    /// # Errors
    /// When `openssl` is not there or fails.
    pub fn make(folder: &Path) -> Result<Self> {
        let openssl = find("openssl", &[], "openssl")?;
        std::fs::write(folder.join("openssl.cnf"), CONFIG)?;
        let request = |extensions: &str, name: &str, signer: &[&str]| {
            let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
            let mut command = Command::new(&openssl);
            command.current_dir(folder).args(["req", "-x509", "-config", "openssl.cnf", "-days", "2", "-nodes"]);
            command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.args(["-extensions", extensions, "-keyout", &key, "-out", &certificate]).args(signer);
            run(&mut command).map(|_| (folder.join(certificate), folder.join(key)))
        };
        let (authority, _) = request("authority", "authority", &[])?;
        let (certificate, key) = request("server", "server", &["-CA", "authority.crt", "-CAkey", "authority.key"])?;
        Ok(Self { authority, certificate, key })
    }
}
