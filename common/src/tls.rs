//! TLS as a client, through rustls with aws-lc-rs: whose certificates are trusted.
//!
//! The provider is named each time, so that nothing here depends on which one the
//! process has installed.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The cryptography of all connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Those who may sign a server's certificate: the authorities in a PEM file and nobody else, or without one those of
/// the system.
///
/// # Errors
/// What is wrong with the file, or that nobody is trusted, for whoever wrote the URL.
pub(crate) fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("this system trusts no certificate authority; name one with ca=".to_owned());
        }
        return Ok(roots);
    };
    let unreadable = |error: &dyn std::fmt::Display| format!("ca={} cannot be read: {error}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() { Err(unreadable(&"it holds no certificate in PEM")) } else { Ok(roots) }
}

/// How to talk to servers whose certificates are signed by one of [`roots`] and made out for their hosts.
///
/// # Errors
/// As [`roots`].
pub(crate) fn verifying(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots(ca)?).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_that_names_nobody_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, text) in [("empty.pem", ""), ("notes.pem", "these are my notes"), ("broken.pem", broken)] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = roots(Some(&path)).unwrap_err();
            assert!(error.contains(name) && error.contains("cannot be read"), "{error}");
        }
        let error = verifying(Some(&folder.path().join("missing.pem"))).unwrap_err();
        assert!(error.contains("missing.pem"), "{error}");
    }
}
