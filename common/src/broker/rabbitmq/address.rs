//! Where the broker is and what names it uses there: the URL. Pure.

use std::path::PathBuf;

use lapin::uri::{AMQPScheme, AMQPUri};

use crate::broker::BrokerError;

/// Stands in front of all names, where the URL says nothing.
const PREFIX: &str = "teamster";
/// The longest prefix, in bytes. With it, the longest name has 145 bytes; AMQP allows 255.
const PREFIX_LENGTH: usize = 64;
/// Seconds between two signs of life, where the URL says nothing: a peer that is silent for twice as long is gone.
const HEARTBEAT: u16 = 10;
/// The largest frame, in bytes, where the URL says nothing. A connection sets 64 of them aside, and hints are tiny.
const FRAME: u32 = 16 << 10;
/// What a query may say, beside the prefix and the authority.
const QUERY: [&str; 5] = ["frame_max", "channel_max", "heartbeat", "connection_timeout", "auth_mechanism"];

/// A place at a broker.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) uri: AMQPUri,
    pub(super) prefix: String,
    /// Who is trusted with TLS, as PEM; those of the system if there is no file.
    pub(super) ca: Option<PathBuf>,
}

// By hand: the URI holds the password.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Address {
    /// From a URL. Errors name neither user nor password.
    pub(super) fn parse(url: &str) -> Result<Self, BrokerError> {
        let refuse = |why: String| BrokerError::Misconfigured(format!("broker: {why}"));
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        if !matches!(scheme, "amqp" | "amqps") {
            let given = if scheme.is_empty() { "it".to_owned() } else { format!("{scheme}://…") };
            return Err(refuse(format!(
                "{given} is not the URL of a broker; use amqp://HOST:5672/%2f or amqps://HOST:5671/%2f, for RabbitMQ"
            )));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut prefix, mut ca) = (PREFIX.to_owned(), None);
        let mut others = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("prefix", name)) => name.clone_into(&mut prefix),
                Some(("ca", _)) if scheme != "amqps" => return Err(refuse("ca= is for amqps://".to_owned())),
                Some(("ca", _)) => {
                    ca = form_urlencoded::parse(pair.as_bytes()).next().map(|(_, file)| PathBuf::from(file.as_ref()));
                }
                Some((key, _)) if QUERY.contains(&key) => others.push(pair),
                _ => {
                    let key = pair.split('=').next().unwrap_or_default();
                    return Err(refuse(format!("the URL says {key:?}; use prefix, ca, {}", QUERY.join(", "))));
                }
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=PREFIX_LENGTH).contains(&prefix.len()) || !prefix.chars().all(plain) {
            return Err(refuse(format!(
                "prefix={prefix:?}: use 1 to {PREFIX_LENGTH} letters, digits, '-', '_' or '.'"
            )));
        }
        if rest.starts_with('[') || rest.contains("@[") {
            return Err(refuse("an IPv6 address is not understood here; use a host name".to_owned()));
        }
        let base = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
        // The parser's own message repeats the URL, password and all.
        let mut uri: AMQPUri = base.parse().map_err(|_| {
            refuse("the URL cannot be read; use amqp://USER:PASSWORD@HOST:5672/VHOST (the vhost / is %2f)".to_owned())
        })?;
        // An empty path means the empty vhost in AMQP's grammar, which nobody has.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.frame_max.get_or_insert(FRAME);
        Ok(Self { uri, prefix, ca })
    }

    /// The place without user and password: for people.
    pub(super) fn shown(&self) -> String {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        format!("{scheme}://{}:{} (vhost {vhost}, prefix {})", authority.host, authority.port, self.prefix)
    }

    /// Whether it is protected with TLS.
    pub(super) fn is_protected(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// Whether what is sent can be read on the way.
    pub(super) fn is_exposed(&self) -> bool {
        let loopback = matches!(self.uri.authority.host.as_str(), "localhost" | "127.0.0.1");
        !self.is_protected() && !loopback
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_names_the_server_the_vhost_and_the_prefix() {
        let address = Address::parse("amqp://ada:pa%40ss@mq.example:5673/%2f?prefix=blue&heartbeat=3").unwrap();
        assert_eq!(address.prefix, "blue");
        assert_eq!((address.uri.authority.host.as_str(), address.uri.authority.port), ("mq.example", 5673));
        assert_eq!((address.uri.vhost.as_str(), address.uri.query.heartbeat), ("/", Some(3)));
        assert_eq!(address.uri.authority.userinfo.password, "pa@ss");
        let protected = Address::parse("amqps://mq.example/%2f?ca=%2Fetc%2Four%20ca.pem&prefix=blue").unwrap();
        assert_eq!(protected.uri.authority.port, 5671);
        assert_eq!(protected.ca, Some("/etc/our ca.pem".into()));
        assert_eq!(Address::parse("amqp://mq.example/").unwrap().uri.vhost, "/");
        assert_eq!(Address::parse("amqp://mq.example/jobs").unwrap().uri.vhost, "jobs");
    }

    #[test]
    fn what_is_shown_or_refused_names_no_credentials() {
        let address = Address::parse("amqp://ada:hunter2@mq.example").unwrap();
        for text in [format!("{address:?}"), address.shown()] {
            assert!(text.contains("mq.example") && !text.contains("hunter2") && !text.contains("ada"), "{text}");
        }
        for url in [
            "redis://ada:hunter2@h",
            "ada:hunter2@h",
            "",
            "amqp://ada:hunter2@h:port",
            "amqp://ada:hunter2@h?prefix=",
            "amqp://ada:hunter2@h?prefix=a/b",
            "amqp://ada:hunter2@h?colour=red",
            "amqp://ada:hunter2@h?ca=/etc/ca.pem",
            "amqp://ada:hunter2@h?heartbeat=often",
            "amqp://ada:hunter2@[::1]",
        ] {
            let message = Address::parse(url).unwrap_err().to_string();
            assert!(message.starts_with("broker: "), "{message}");
            assert!(!message.contains("hunter2") && !message.contains("ada"), "{message}");
        }
    }
}
