//! The egress rule: which addresses a target may be reached at. Pure: addresses in, a verdict out; who connects asks it about
//! the very address it is about to connect to, so that no name, redirect or odd spelling of an address gets round it.
//!
//! Public unicast addresses are allowed. Everything else (loopback, link-local with the clouds' metadata services, private,
//! carrier-grade NAT, unique local, multicast, documentation, reserved …) is refused unless `SLUSE_ALLOW_PRIVATE_TARGETS` is
//! `true` or lists a network that holds it. An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4) is judged by that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// What kind of address it is, as far as egress is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    Public,
    Loopback,
    LinkLocal,
    Private,
    CarrierGradeNat,
    Unspecified,
    Multicast,
    /// Documentation, benchmarking, protocol assignments, not yet given out.
    Reserved,
}

impl AddressClass {
    /// The class in words, for messages; also a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::CarrierGradeNat => "carrier-grade NAT",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
        }
    }

    /// The class of `address`, by the IANA special-purpose registries.
    pub fn of(address: IpAddr) -> Self {
        match canonical(address) {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            [0, 0, 0, 0] => Self::Unspecified,
            [0, ..] => Self::Reserved,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Self::Private,
            [100, 64..=127, ..] => Self::CarrierGradeNat,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            // protocol assignments, documentation (three nets), 6to4 relay anycast, benchmarking
            [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => {
                Self::Reserved
            }
            [224..=239, ..] => Self::Multicast,
            [240..=255, ..] => Self::Reserved,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if address.is_unspecified() {
            return Self::Unspecified;
        }
        if address.is_loopback() {
            return Self::Loopback;
        }
        match address.segments() {
            [0xff00..=0xffff, ..] => Self::Multicast,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            // unique local, and site-local that it replaced
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            // a site's own NAT64 prefix (RFC 8215): where the IPv4 address stands in it cannot be known
            [0x0064, 0xff9b, ..] => Self::Private,
            // protocol assignments with Teredo (2001::/23), documentation (two nets)
            [0x2001, 0x0000..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0x0000..=0x0fff, ..] => Self::Reserved,
            // global unicast, all that is given out so far
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Reserved,
        }
    }
}

/// The address that is reached in the end: an IPv4 address inside an IPv6 one is unwrapped (mapped, NAT64 `64:ff9b::/96`, 6to4).
pub fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    let v4_of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => v4_of(high, low),
        [0x2002, high, low, ..] => v4_of(high, low),
        _ => address,
    }
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is at {address}, a {} address, which targets may not use (SLUSE_ALLOW_PRIVATE_TARGETS can list its network)",
    .class.as_str()
)]
pub struct EgressRefused {
    /// The host as the target's URL names it.
    pub host: String,
    pub address: IpAddr,
    pub class: AddressClass,
}

/// Why a setting of `SLUSE_ALLOW_PRIVATE_TARGETS` is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "SLUSE_ALLOW_PRIVATE_TARGETS is `true`, `false` or a list of networks like `127.0.0.0/8,10.1.0.0/16`: {0:?} is none"
)]
pub struct EgressSettingError(pub String);

/// Which addresses targets may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicy {
    allowed: Allowed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    Everything,
    PublicAnd(Vec<IpNet>),
}

impl EgressPolicy {
    /// Public addresses alone.
    pub const fn public_only() -> Self {
        Self { allowed: Allowed::PublicAnd(Vec::new()) }
    }

    /// Reads `SLUSE_ALLOW_PRIVATE_TARGETS`: `false` or empty, `true`, or networks (or single addresses) separated by commas.
    ///
    /// # Errors
    /// Names the part that is no network.
    pub fn from_setting(setting: &str) -> Result<Self, EgressSettingError> {
        match setting.trim() {
            "" | "false" => return Ok(Self::public_only()),
            "true" => return Ok(Self { allowed: Allowed::Everything }),
            _ => {}
        }
        let networks = setting.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
            let network = IpNet::from_str(part).or_else(|_| IpAddr::from_str(part).map(IpNet::from));
            network.map_err(|_| EgressSettingError(part.to_owned()))
        });
        Ok(Self { allowed: Allowed::PublicAnd(networks.collect::<Result<_, _>>()?) })
    }

    /// Whether `host`, found at `address`, may be connected to.
    ///
    /// # Errors
    /// Says what kind of address it is.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), EgressRefused> {
        let Allowed::PublicAnd(networks) = &self.allowed else { return Ok(()) };
        let class = AddressClass::of(address);
        let reached = canonical(address);
        let is_listed = || networks.iter().any(|network| network.contains(&reached) || network.contains(&address));
        if class == AddressClass::Public || is_listed() {
            return Ok(());
        }
        Err(EgressRefused { host: host.to_owned(), address, class })
    }
}

impl fmt::Display for EgressPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.allowed {
            Allowed::Everything => f.write_str("every address"),
            Allowed::PublicAnd(networks) if networks.is_empty() => f.write_str("public addresses"),
            Allowed::PublicAnd(networks) => {
                f.write_str("public addresses")?;
                networks.iter().try_for_each(|network| write!(f, ", {network}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(address: &str) -> AddressClass {
        AddressClass::of(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_public() {
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"] {
            assert_eq!(class(address), AddressClass::Public, "{address}");
        }
    }

    #[test]
    fn special_addresses_are_recognised() {
        use AddressClass::*;
        for (address, expected) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Reserved),
            ("10.255.0.1", Private),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("100.64.0.1", CarrierGradeNat),
            ("100.127.255.255", CarrierGradeNat),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("169.254.169.254", LinkLocal),
            ("192.0.0.192", Reserved),
            ("192.0.2.1", Reserved),
            ("198.18.0.1", Reserved),
            ("224.0.0.1", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::7f00:1", Reserved),
            ("fe80::1", LinkLocal),
            ("fc00::1", Private),
            ("fd00:ec2::254", Private),
            ("fec0::1", Private),
            ("ff02::1", Multicast),
            ("2001:db8::1", Reserved),
            ("2001::1", Reserved),
            ("100::1", Reserved),
            ("64:ff9b:1::a00:1", Private),
            ("4000::1", Reserved),
        ] {
            assert_eq!(class(address), expected, "{address}");
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_counts_as_itself() {
        for (address, expected) in [
            ("::ffff:127.0.0.1", AddressClass::Loopback),
            ("::ffff:1.1.1.1", AddressClass::Public),
            ("64:ff9b::7f00:1", AddressClass::Loopback),
            ("64:ff9b::a9fe:a9fe", AddressClass::LinkLocal),
            ("64:ff9b::101:101", AddressClass::Public),
            ("2002:7f00:1::", AddressClass::Loopback),
            ("2002:a00:1::1", AddressClass::Private),
            ("2002:101:101::1", AddressClass::Public),
        ] {
            assert_eq!(class(address), expected, "{address}");
        }
    }

    #[test]
    fn a_listed_network_lets_its_addresses_through_and_no_others() {
        let policy = EgressPolicy::from_setting("10.1.0.0/16, 127.0.0.1 ,fd00::/8").unwrap();
        let is_allowed = |address: &str| policy.check("host", address.parse().unwrap()).is_ok();
        for address in ["10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd12::1", "8.8.8.8"] {
            assert!(is_allowed(address), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.2", "fe80::1", "::1", "0.0.0.0"] {
            assert!(!is_allowed(address), "{address}");
        }
    }

    #[test]
    fn settings_are_read_and_wrong_ones_named() {
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(EgressPolicy::from_setting("true").unwrap().check("h", loopback).is_ok());
        for closed in ["false", "", " false "] {
            assert!(EgressPolicy::from_setting(closed).unwrap().check("h", loopback).is_err(), "{closed:?}");
        }
        assert_eq!(EgressPolicy::from_setting("10.0.0.0/8,yes"), Err(EgressSettingError("yes".into())));
        assert!(EgressPolicy::from_setting("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_refusal_tells_what_to_do() {
        let refused = EgressPolicy::public_only().check("intra.example", "10.0.0.7".parse().unwrap()).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("intra.example") && text.contains("10.0.0.7") && text.contains("private"), "{text}");
        assert!(text.contains("SLUSE_ALLOW_PRIVATE_TARGETS"), "{text}");
    }

    proptest! {
        /// However an IPv4 address is wrapped, the verdict is that of the address itself.
        #[test]
        fn wrapping_never_changes_the_verdict(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let expected = EgressPolicy::public_only().check("h", v4.into()).is_ok();
            for wrapped in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ] {
                prop_assert_eq!(EgressPolicy::public_only().check("h", wrapped.into()).is_ok(), expected, "{}", wrapped);
            }
        }

        /// What the standard library calls special is never public here.
        #[test]
        fn nothing_that_the_standard_library_calls_special_is_public(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            let is_special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!(is_special && AddressClass::of(v4.into()) == AddressClass::Public), "{}", v4);
        }
    }
}
