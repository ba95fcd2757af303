use http::Uri;
use tokio::net::lookup_host;

use crate::{Error, Result};

/// Most addresses that calls are spread over.
pub(crate) const ADDRESSES_MAX: usize = 64;

/// Where brokers are, as an address says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    given: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One connection to this URI.
    One(Uri),
    /// One connection to each address of `host:port`.
    All(String),
}

impl Target {
    /// Parts separated by commas, each `host:port`, a URL, or `dns:///host:port`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them is none, or they are too many.
    pub(crate) fn parse(given: &str) -> Result<Self> {
        let parts = given.split(',').map(|part| Part::parse(part.trim())).collect::<Result<Vec<_>>>()?;
        if parts.len() > ADDRESSES_MAX {
            return Err(Error::Invalid(format!(
                "{} addresses are given, and at most {ADDRESSES_MAX} are allowed: give fewer, or a name that has them all, \
                 such as dns:///brokers:50051",
                parts.len()
            )));
        }
        Ok(Self { given: given.into(), parts })
    }

    /// True if what it stands for may change.
    pub(crate) fn has_names(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::All(_)))
    }

    /// What it stands for now, each once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that is nothing.
    pub(crate) async fn resolve(&self) -> Result<Vec<Uri>> {
        let (mut found, mut problem) = (Vec::new(), "the name has none".to_owned());
        for part in &self.parts {
            match part {
                Part::One(uri) => found.push(uri.clone()),
                Part::All(name) => match lookup_host(name).await {
                    Ok(addresses) => {
                        found.extend(addresses.filter_map(|address| format!("http://{address}").parse().ok()));
                    }
                    Err(error) => problem = error.to_string(),
                },
            }
        }
        found.sort_by_key(Uri::to_string);
        found.dedup();
        if found.is_empty() {
            return Err(Error::unavailable(format!(
                "'{}' stands for no address ({problem}): check the name, and that at least one broker behind it is ready",
                self.given
            )));
        }
        Ok(found)
    }
}

impl Part {
    fn parse(given: &str) -> Result<Self> {
        let no_address = |problem: String| {
            Error::Invalid(format!(
                "'{given}' is no address ({problem}): give one such as http://127.0.0.1:50051, or dns:///brokers:50051 for all \
                 brokers of a name"
            ))
        };
        if let Some(name) = given.strip_prefix("dns:") {
            let Some(name) = name.strip_prefix("///") else {
                return Err(no_address("a name to be looked up begins with dns:///, and names no DNS server".into()));
            };
            let (host, port) = name.rsplit_once(':').ok_or_else(|| no_address("the port is missing".into()))?;
            if host.is_empty() || host.contains(['/', ' ', '@']) {
                return Err(no_address(format!("'{host}' is no name of a host")));
            }
            return match port.parse::<u16>() {
                Ok(1..) => Ok(Self::All(name.into())),
                _ => Err(no_address(format!("'{port}' is no port: 1 to 65535"))),
            };
        }
        let uri = if given.contains("://") { given.into() } else { format!("http://{given}") };
        uri.parse().map(Self::One).map_err(|error: http::uri::InvalidUri| no_address(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(given: &str) -> Vec<Part> {
        Target::parse(given).unwrap().parts
    }

    fn refused(given: &str) -> String {
        Target::parse(given).unwrap_err().to_string()
    }

    #[test]
    fn an_address_is_one_broker_and_a_name_to_look_up_is_all_of_them() {
        assert_eq!(parts("127.0.0.1:50051"), [Part::One(Uri::from_static("http://127.0.0.1:50051"))]);
        assert_eq!(parts("http://brokers:50051"), [Part::One(Uri::from_static("http://brokers:50051"))]);
        assert_eq!(parts("dns:///brokers.shop:50052"), [Part::All("brokers.shop:50052".into())]);
        assert_eq!(parts("dns:///[::1]:50052"), [Part::All("[::1]:50052".into())]);
        let [one, all] = [Part::One(Uri::from_static("http://a:1")), Part::All("b:2".into())];
        assert_eq!(parts("a:1, dns:///b:2"), [one, all]);
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason_and_an_example() {
        for (given, reason) in [
            ("", "empty"),
            ("a:1,,b:2", "empty"),
            ("not an address", "invalid"),
            ("dns:brokers:50051", "begins with dns:///"),
            ("dns://8.8.8.8/brokers:50051", "names no DNS server"),
            ("dns:///brokers", "the port is missing"),
            ("dns:///:50051", "'' is no name"),
            ("dns:///brokers:0", "'0' is no port"),
            ("dns:///brokers:70000", "'70000' is no port: 1 to 65535"),
            ("dns:///8.8.8.8/brokers:1", "'8.8.8.8/brokers' is no name"),
        ] {
            let refusal = refused(given);
            assert!(refusal.contains(reason) && refusal.contains("dns:///brokers:50051"), "{given}: {refusal}");
        }
        let many = vec!["a:1"; ADDRESSES_MAX + 1].join(",");
        assert!(refused(&many).starts_with("65 addresses are given, and at most 64 are allowed"));
    }

    #[tokio::test]
    async fn what_a_list_stands_for_is_told_once_each() {
        let target = Target::parse("127.0.0.1:2,dns:///127.0.0.1:2,dns:///[::1]:3,127.0.0.1:1").unwrap();
        let found = target.resolve().await.unwrap();
        assert_eq!(found, ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://[::1]:3"]);
    }
}
