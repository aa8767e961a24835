//! Where a Redis is, as a URL says it. Pure.
//!
//! | form | what |
//! |---|---|
//! | `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | one server |
//! | `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]` | the master that sentinels name |
//! | `redis+cluster://[USER:PASSWORD@]HOST[:PORT],…` | a cluster, of which these are some nodes |
//!
//! `rediss` in place of `redis` is the same with TLS. Options: `prefix=NAME` for
//! keys (default `teamster`), `partitions=N` (1, on a cluster 16; fixed at first
//! use), `ca=FILE` with the certificates to be trusted (default: those of the system).

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

/// The most partitions: as many as there are shards.
const MOST: u16 = 4096;
/// Partitions of a new store on a cluster.
const ON_CLUSTER: u16 = 16;
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// What kind of installation it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server.
    Single,
    /// The master of this name.
    Sentinel(String),
    /// A cluster.
    Cluster,
}

/// Whom to trust, with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// Whom the system trusts.
    System,
    /// The certificates in a file.
    File(PathBuf),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) kind: Kind,
    pub(super) hosts: Vec<(String, u16)>,
    /// How it is secured, if it is.
    pub(super) tls: Option<Trust>,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) database: i64,
    /// What keys begin with.
    pub(super) prefix: String,
    /// How many partitions the URL wants.
    pub(super) partitions: Option<u16>,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it; never its password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("the URL has no ://")?;
        let (transport, form) = scheme.split_once('+').unwrap_or((scheme, ""));
        let secure = match transport {
            "redis" => false,
            "rediss" => true,
            _ => return Err(format!("{scheme} is no scheme of Redis; use redis or rediss")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = place.rsplit_once('@').map_or((None, place), |(who, hosts)| (Some(who), hosts));
        let (user, password) = match credentials.map(|who| who.split_once(':').unwrap_or((who, ""))) {
            None => (None, None),
            Some((user, password)) => {
                let (user, password) = (unescape(user)?, unescape(password)?);
                (Some(user).filter(|u| !u.is_empty()), Some(password).filter(|p| !p.is_empty()).map(SecretString::from))
            }
        };
        let (kind, database) = match form {
            "" => (Kind::Single, path),
            "cluster" => (Kind::Cluster, path),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err("the name of the master is missing; write redis+sentinel://HOST,HOST/MASTER".to_owned());
                }
                (Kind::Sentinel(unescape(master)?), database)
            }
            other => return Err(format!("+{other} is not known; use +sentinel or +cluster")),
        };
        let default_port = if form == "sentinel" { SENTINEL_PORT } else { PORT };
        let hosts = hosts.split(',').map(|host| split_host(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        if kind == Kind::Single && hosts.len() > 1 {
            return Err("several hosts are for redis+sentinel:// and redis+cluster://".to_owned());
        }
        let database = match database {
            "" => 0,
            number => {
                number.parse().ok().filter(|n| *n >= 0).ok_or_else(|| format!("{number:?} is no database number"))?
            }
        };
        if kind == Kind::Cluster && database != 0 {
            return Err("a cluster has database 0 only".to_owned());
        }
        let mut address = Self {
            kind,
            hosts,
            tls: secure.then_some(Trust::System),
            user,
            password,
            database,
            prefix: "teamster".to_owned(),
            partitions: None,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            address.set(option)?;
        }
        Ok(address)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = unescape(value)?;
        match name {
            "prefix" => {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
                if value.is_empty() || value.len() > 64 || !value.chars().all(fits) {
                    return Err(format!("prefix {value:?}: use 1 to 64 letters, digits, '-', '_', '.' or ':'"));
                }
                self.prefix = value;
            }
            "partitions" => {
                let number = value.parse().ok().filter(|n| (1..=MOST).contains(n));
                self.partitions = Some(number.ok_or_else(|| format!("partitions {value:?}: use 1 to {MOST}"))?);
            }
            "ca" if self.tls.is_none() => return Err("ca is for rediss://".to_owned()),
            "ca" => self.tls = Some(Trust::File(PathBuf::from(value))),
            other => return Err(format!("the option {other:?} is not known; there are prefix, partitions and ca")),
        }
        Ok(())
    }

    /// How many partitions a new store gets.
    pub(super) fn partitions_of_new(&self) -> u16 {
        self.partitions.unwrap_or(if self.kind == Kind::Cluster { ON_CLUSTER } else { 1 })
    }

    /// One of its hosts, without who logs in.
    pub(super) fn host(&self, host: &str, port: u16) -> ConnectionAddr {
        match &self.tls {
            None => ConnectionAddr::Tcp(host.to_owned(), port),
            Some(_) => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
        }
    }

    /// Its hosts, with who logs in.
    ///
    /// # Errors
    /// What the client cannot do.
    pub(super) fn servers(&self) -> Result<Vec<ConnectionInfo>, redis::RedisError> {
        let mut login = RedisConnectionInfo::default().set_db(self.database);
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password.expose_secret());
        }
        let server = |(host, port): &(String, u16)| {
            Ok(self.host(host, *port).into_connection_info()?.set_redis_settings(login.clone()))
        };
        self.hosts.iter().map(server).collect()
    }
}

/// For errors and logs: never who logs in.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let hosts = hosts.join(",");
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match &self.kind {
            Kind::Single => write!(f, "{scheme}://{hosts}/{}", self.database),
            Kind::Sentinel(master) => write!(f, "{scheme}+sentinel://{hosts}/{master}/{}", self.database),
            Kind::Cluster => write!(f, "{scheme}+cluster://{hosts}"),
        }
    }
}

fn split_host(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("a host is missing".to_owned());
    }
    let port = match port {
        None => default_port,
        Some(port) => port.parse().map_err(|_| format!("{port:?} is no port"))?,
    };
    Ok((host.to_owned(), port))
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> Result<String, String> {
    let wrong = || "a % must be followed by two hexadecimal digits".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(wrong);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| "what is percent-encoded is no UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_form_is_understood() {
        let one = Address::parse("redis://h").unwrap();
        assert_eq!(
            (one.kind.clone(), one.hosts.clone(), one.database),
            (Kind::Single, vec![("h".to_owned(), 6379)], 0)
        );
        assert_eq!((one.prefix.as_str(), one.partitions_of_new(), one.tls.is_none()), ("teamster", 1, true));
        let full = Address::parse("rediss://u:p%40ss@[::1]:7/3?prefix=x&partitions=4&ca=/etc/ca.pem").unwrap();
        assert_eq!(full.hosts, [("::1".to_owned(), 7)]);
        assert_eq!(full.password.as_ref().map(ExposeSecret::expose_secret), Some("p@ss"));
        assert_eq!((full.user.as_deref(), full.database, full.partitions), (Some("u"), 3, Some(4)));
        assert_eq!(full.tls, Some(Trust::File(PathBuf::from("/etc/ca.pem"))));
        let sentinel = Address::parse("redis+sentinel://:secret@a,b:5/mymaster/2").unwrap();
        assert_eq!(sentinel.kind, Kind::Sentinel("mymaster".to_owned()));
        assert_eq!(sentinel.hosts, [("a".to_owned(), 26379), ("b".to_owned(), 5)]);
        assert_eq!(sentinel.to_string(), "redis+sentinel://a:26379,b:5/mymaster/2");
        let cluster = Address::parse("rediss+cluster://a,b").unwrap();
        assert_eq!((cluster.kind.clone(), cluster.partitions_of_new()), (Kind::Cluster, 16));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for url in [
            "redis://",
            "redis://u:secret@",
            "redis://u:secret@a,b",
            "redis://u:secret@h:port",
            "redis://u:secret@h/x",
            "redis+ring://u:secret@h",
            "redis+sentinel://u:secret@h",
            "redis+cluster://u:secret@h/1",
            "redis://u:secret@h?partitions=0",
            "redis://u:secret@h?prefix=a{b",
            "redis://u:secret@h?ca=x",
            "redis://u:secret@h?colour=red",
            "redis://u:%zz@h",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}
