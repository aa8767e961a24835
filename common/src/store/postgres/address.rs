//! What a `postgres://` URL says: the server, and our own parameters. Pure.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::store::StoreError;

/// The schema that our tables lie in, unless `?schema=` names another.
const SCHEMA: &str = "teamster";
/// Writer connections, unless `?writers=` says otherwise.
const WRITERS: usize = 2;
/// The most writer connections.
const MOST_WRITERS: usize = 8;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// After so much silence the network is asked whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where a store lies, and how to get there.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// Hosts, database, user and password.
    pub(super) config: Config,
    /// The schema of our tables: an identifier, safe to be quoted.
    pub(super) schema: String,
    /// How many connections write.
    pub(super) writers: usize,
    /// How the connection is protected.
    pub(super) tls: Tls,
}

/// How the connection is protected, in the words of `sslmode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tls {
    /// `disable`, or TLS where the server offers it, without asking who it is: `prefer`; and `require` always wants it.
    Unverified,
    /// The server's certificate must be signed by someone trusted.
    Verified {
        /// `verify-full`: and be made out for the host.
        host: bool,
        /// Who is trusted, as PEM; the system's roots if there is no file.
        ca: Option<PathBuf>,
    },
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`StoreError::Refused`], which never repeats the password.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let refuse = |why: String| StoreError::Refused(format!("store postgres URL: {why}"));
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut schema, mut writers, mut mode, mut ca) = (SCHEMA.to_owned(), WRITERS, None, None);
        let mut theirs = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "schema" => schema = value.into_owned(),
                "writers" => {
                    writers =
                        value.parse().ok().filter(|writers| (1..=MOST_WRITERS).contains(writers)).ok_or_else(|| {
                            refuse(format!("writers={value} is not a number from 1 to {MOST_WRITERS}"))
                        })?;
                }
                "sslmode" => mode = Some(value.into_owned()),
                "ca" | "sslrootcert" => ca = Some(PathBuf::from(value.into_owned())),
                _ => {
                    theirs.append_pair(&name, &value);
                }
            }
        }
        if !is_identifier(&schema) {
            return Err(refuse(format!(
                "schema={schema:?} is not usable; use 1 to 63 lower-case letters, digits or '_', not starting with a \
                 digit or 'pg_'"
            )));
        }
        // The parser of the driver takes '+' literally.
        let theirs = theirs.finish().replace('+', "%20");
        let mut config: Config = format!("{base}?{theirs}")
            .parse()
            .map_err(|error: tokio_postgres::Error| refuse(super::fault::chain(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(refuse("the host is missing; write postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned()));
        }
        let (ssl, tls) = match (mode.as_deref(), ca) {
            (Some("disable"), None) => (SslMode::Disable, Tls::Unverified),
            (Some("disable"), Some(_)) => return Err(refuse("ca= has no meaning with sslmode=disable".to_owned())),
            (None | Some("prefer"), None) => (SslMode::Prefer, Tls::Unverified),
            (Some("require"), None) => (SslMode::Require, Tls::Unverified),
            (Some("verify-ca"), ca) => (SslMode::Require, Tls::Verified { host: false, ca }),
            (None | Some("prefer" | "require" | "verify-full"), ca) => {
                (SslMode::Require, Tls::Verified { host: true, ca })
            }
            (Some(other), _) => {
                return Err(refuse(format!(
                    "sslmode={other} is not known; use disable, prefer, require, verify-ca or verify-full"
                )));
            }
        };
        config.ssl_mode(ssl).connect_timeout(CONNECT).keepalives(true).keepalives_idle(KEEPALIVE);
        if config.get_application_name().is_none() {
            config.application_name("teamster");
        }
        Ok(Self { config, schema, writers, tls })
    }

    /// Whether all hosts are this machine.
    pub(super) fn is_local(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            #[cfg(unix)]
            Host::Unix(_) => true,
        })
    }
}

fn is_identifier(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.starts_with("pg_")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plain_url_gets_the_defaults() {
        let address = Address::parse("postgres://u:p@h:5433/db").unwrap();
        assert_eq!((address.schema.as_str(), address.writers), ("teamster", WRITERS));
        assert_eq!(address.config.get_ports(), [5433]);
        assert_eq!((address.config.get_ssl_mode(), &address.tls), (SslMode::Prefer, &Tls::Unverified));
    }

    #[test]
    fn our_parameters_are_taken_and_the_others_passed_on() {
        let url = "postgresql://u@h/db?schema=jobs&writers=4&sslmode=verify-full&ca=%2Fetc%2Fca.pem\
                   &options=-c%20geqo%3Doff&application_name=x";
        let address = Address::parse(url).unwrap();
        assert_eq!((address.schema.as_str(), address.writers), ("jobs", 4));
        assert_eq!(address.tls, Tls::Verified { host: true, ca: Some("/etc/ca.pem".into()) });
        assert_eq!(address.config.get_options(), Some("-c geqo=off"));
        assert_eq!(address.config.get_application_name(), Some("x"));
    }

    #[test]
    fn a_ca_is_never_ignored() {
        for mode in ["", "&sslmode=prefer", "&sslmode=require", "&sslmode=verify-full"] {
            let address = Address::parse(&format!("postgres://h/db?ca=/x.pem{mode}")).unwrap();
            assert_eq!(address.config.get_ssl_mode(), SslMode::Require, "{mode}");
            assert!(matches!(address.tls, Tls::Verified { host: true, ca: Some(_) }), "{mode}");
        }
        assert!(Address::parse("postgres://h/db?ca=/x.pem&sslmode=disable").is_err());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, word) in [
            ("postgres://u:secret@h/db?schema=Robert'); DROP", "schema="),
            ("postgres://u:secret@h/db?schema=pg_x", "schema="),
            ("postgres://u:secret@h/db?writers=0", "writers=0"),
            ("postgres://u:secret@h/db?sslmode=maybe", "sslmode=maybe"),
            ("postgres://u:secret@h/db?nonsense=1", "nonsense"),
            ("postgres:///db?user=u&password=secret", "host"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_loopback_address_is_local() {
        assert!(Address::parse("postgres://127.0.0.1/db").unwrap().is_local());
        assert!(Address::parse("postgres://localhost/db").unwrap().is_local());
        assert!(!Address::parse("postgres://db.example.com/db").unwrap().is_local());
    }
}
