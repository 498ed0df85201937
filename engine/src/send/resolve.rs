//! Name resolution under the egress rule: what comes out of here is what is connected to, so a name that answers differently
//! the second time gains nothing. Addresses that are refused are left out; a name with none left is refused as a whole.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::egress::{EgressPolicy, EgressRefused};
use super::metrics;

/// Why a host has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Refused(#[from] EgressRefused),
    #[error("cannot resolve {host}: {source}")]
    Lookup {
        /// The name that was looked up.
        host: String,
        source: io::Error,
    },
}

/// The addresses of `host` (a name or a literal without brackets) that may be connected to, in the resolver's order.
///
/// # Errors
/// The egress rule refuses all of them, or the name does not resolve.
pub async fn resolve(policy: &EgressPolicy, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        check(policy, host, address)?;
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let lookup = |source| ResolveError::Lookup { host: host.to_owned(), source };
    let found = tokio::net::lookup_host((host, port)).await.map_err(lookup)?;
    let (mut allowed, mut refused) = (Vec::new(), None);
    for address in found {
        match policy.check(host, address.ip()) {
            Ok(()) => allowed.push(address),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    match refused {
        Some(why) if allowed.is_empty() => {
            metrics::egress_refused(why.class);
            Err(why.into())
        }
        None if allowed.is_empty() => Err(lookup(io::Error::new(io::ErrorKind::NotFound, "no address"))),
        _ => Ok(allowed),
    }
}

/// The rule for a literal address, which no resolver is asked about.
///
/// # Errors
/// The rule refuses it.
pub fn check(policy: &EgressPolicy, host: &str, address: IpAddr) -> Result<(), EgressRefused> {
    policy.check(host, address).inspect_err(|why| metrics::egress_refused(why.class))
}

/// [`resolve`] in the shape that reqwest asks for. It is not asked about literal addresses: the sender checks those itself.
#[derive(Debug)]
pub struct EgressResolver {
    policy: Arc<EgressPolicy>,
}

impl EgressResolver {
    /// A resolver under `policy`.
    pub const fn new(policy: Arc<EgressPolicy>) -> Self {
        Self { policy }
    }
}

impl Resolve for EgressResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.policy);
        Box::pin(async move {
            let addresses = resolve(&policy, name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_refused_by_its_address_and_allowed_when_its_network_is_listed() {
        let closed = resolve(&EgressPolicy::public_only(), "localhost", 80).await;
        assert!(matches!(closed, Err(ResolveError::Refused(_))), "{closed:?}");
        let open = EgressPolicy::from_setting("127.0.0.0/8").unwrap();
        let addresses = resolve(&open, "localhost", 80).await.unwrap();
        assert!(!addresses.is_empty() && addresses.iter().all(|a| a.is_ipv4()), "{addresses:?}");
    }

    #[tokio::test]
    async fn literal_addresses_meet_the_same_rule() {
        for host in ["127.0.0.1", "::1", "::ffff:169.254.169.254", "0.0.0.0"] {
            let refused = resolve(&EgressPolicy::public_only(), host, 80).await;
            assert!(matches!(refused, Err(ResolveError::Refused(_))), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_no_refusal() {
        let missing = resolve(&EgressPolicy::public_only(), "no-such-host.invalid", 80).await;
        assert!(matches!(missing, Err(ResolveError::Lookup { .. })), "{missing:?}");
    }
}
