//! Which address a node advertises and listens on (moby daemon/cluster/listen_addr.go).

use std::net::IpAddr;

/// The port of a manager unless told otherwise.
pub const DEFAULT_PORT: u16 = 2377;

/// A network interface of this node that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Why no address was chosen; the texts are Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("must specify a valid IP address or interface name")]
    NotAnAddress,
    #[error("interface {0} has no usable IPv4 or IPv6 address")]
    NoAddress(String),
    #[error("interface {0} has more than one {family} address ({1} and {2})", family = if .1.is_ipv4() { "IPv4" } else { "IPv6" })]
    SeveralOnNamed(String, IpAddr, IpAddr),
    #[error(
        "could not choose an IP address to advertise since this system has multiple addresses on interface {0} ({1} and {2})"
    )]
    Several(String, IpAddr, IpAddr),
    #[error(
        "could not choose an IP address to advertise since this system has multiple addresses on different interfaces ({1} on {0} and {3} on {2})"
    )]
    SeveralInterfaces(String, IpAddr, String, IpAddr),
    #[error("could not find the system's IP address - specify one with --advertise-addr")]
    None,
    #[error(
        "advertise address must be a non-zero IP address or network interface (with optional port number)"
    )]
    Unspecified,
    #[error("listen address must be an IP address or network interface (with optional port number)")]
    Listen,
    #[error("data path address must be a non-zero IP address or network interface (without a port number)")]
    DataPath,
    #[error("invalid port in {0:?}")]
    Port(String),
}

impl AddressError {
    /// What is no address at all is named by what it was to be.
    #[must_use]
    pub fn of(self, kind: AddressError) -> AddressError {
        if self == AddressError::NotAnAddress {
            kind
        } else {
            self
        }
    }
}

/// The address of `--data-path-addr`.
///
/// # Errors
/// See [`AddressError`].
pub fn data_path(text: &str, interfaces: &[Interface]) -> Result<IpAddr, AddressError> {
    if interfaces.iter().any(|i| i.name == text) {
        return Ok(parse(text, 0, interfaces)?.0);
    }
    text.parse()
        .ok()
        .filter(|address: &IpAddr| !address.is_unspecified())
        .ok_or(AddressError::DataPath)
}

/// `text` is an address, an interface's name, or either with a port.
///
/// # Errors
/// See [`AddressError`].
pub fn parse(text: &str, port: u16, interfaces: &[Interface]) -> Result<(IpAddr, u16), AddressError> {
    let (host, port) = split(text, port)?;
    if let Ok(address) = host.parse() {
        return Ok((address, port));
    }
    let interface = interfaces
        .iter()
        .find(|i| i.name == host)
        .ok_or(AddressError::NotAnAddress)?;
    let usable = usable(interface);
    match usable.as_slice() {
        [] => Err(AddressError::NoAddress(host.to_string())),
        [only] => Ok((*only, port)),
        [a, b, ..] => Err(AddressError::SeveralOnNamed(host.to_string(), *a, *b)),
    }
}

/// The address to advertise: what was asked for, else the only one this system has.
///
/// # Errors
/// See [`AddressError`].
pub fn advertise(text: &str, port: u16, interfaces: &[Interface]) -> Result<(IpAddr, u16), AddressError> {
    if text.is_empty() {
        return Ok((only_address(interfaces)?, port));
    }
    let chosen = parse(text, port, interfaces)?;
    if chosen.0.is_unspecified() {
        return Err(AddressError::Unspecified);
    }
    Ok(chosen)
}

fn split(text: &str, port: u16) -> Result<(&str, u16), AddressError> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, port));
    }
    let bad = || AddressError::Port(text.to_string());
    let Some((host, tail)) = text.rsplit_once(':') else {
        return Ok((text.trim_matches(['[', ']']), port));
    };
    if text.ends_with(']') {
        return Ok((text.trim_matches(['[', ']']), port));
    }
    let port = if tail.is_empty() {
        port
    } else {
        tail.parse().map_err(|_| bad())?
    };
    Ok((host.trim_matches(['[', ']']), port))
}

/// IPv4 where there is one, else global IPv6.
fn usable(interface: &Interface) -> Vec<IpAddr> {
    let v4: Vec<IpAddr> = interface
        .addresses
        .iter()
        .copied()
        .filter(IpAddr::is_ipv4)
        .collect();
    if !v4.is_empty() {
        return v4;
    }
    let global = |a: &IpAddr| matches!(a, IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local());
    interface.addresses.iter().copied().filter(global).collect()
}

fn only_address(interfaces: &[Interface]) -> Result<IpAddr, AddressError> {
    let mut found: Option<(&str, IpAddr)> = None;
    for interface in interfaces.iter().filter(|i| !made_by_us_or_docker(&i.name)) {
        let addresses = usable(interface);
        if let [a, b, ..] = addresses.as_slice() {
            return Err(AddressError::Several(interface.name.clone(), *a, *b));
        }
        let Some(address) = addresses.first() else {
            continue;
        };
        if let Some((name, other)) = found {
            let (name, here) = (name.to_string(), interface.name.clone());
            return Err(AddressError::SeveralInterfaces(name, other, here, *address));
        }
        found = Some((&interface.name, *address));
    }
    found.map(|(_, address)| address).ok_or(AddressError::None)
}

/// Docker leaves out its own networks' addresses; so do we, by name, and ours.
fn made_by_us_or_docker(name: &str) -> bool {
    name == "lo"
        || ["docker", "br-", "veth", "skep"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_string(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_only_address_is_taken() {
        let system = [
            interface("lo", &["127.0.0.1"]),
            interface("eth0", &["192.168.50.1", "fe80::1"]),
            interface("docker0", &["172.17.0.1"]),
        ];
        assert_eq!(advertise("", 2377, &system), Ok((ip("192.168.50.1"), 2377)));
    }

    #[test]
    fn several_addresses_are_named() {
        let one = [interface("eth0", &["10.0.0.1", "10.0.0.2"])];
        let text = advertise("", 2377, &one).unwrap_err().to_string();
        assert!(
            text.ends_with("multiple addresses on interface eth0 (10.0.0.1 and 10.0.0.2)"),
            "{text}"
        );
        let two = [interface("eth0", &["10.0.0.1"]), interface("eth1", &["10.1.0.1"])];
        let text = advertise("", 2377, &two).unwrap_err().to_string();
        assert!(
            text.ends_with("(10.0.0.1 on eth0 and 10.1.0.1 on eth1)"),
            "{text}"
        );
    }

    #[test]
    fn a_data_path_address_has_no_port() {
        let system = [interface("eth0", &["192.168.50.1"])];
        assert_eq!(data_path("eth0", &system), Ok(ip("192.168.50.1")));
        assert_eq!(data_path("10.1.1.1", &system), Ok(ip("10.1.1.1")));
        for bad in ["eth0:99", "10.1.1.1:99", "0.0.0.0", "eth7", "nonsense"] {
            assert_eq!(data_path(bad, &system), Err(AddressError::DataPath), "{bad}");
        }
    }

    #[test]
    fn addresses_interfaces_and_ports_are_understood() {
        let system = [interface("eth0", &["192.168.50.1"])];
        for (text, expected) in [
            ("10.1.1.1", ("10.1.1.1", 2377)),
            ("10.1.1.1:4000", ("10.1.1.1", 4000)),
            ("eth0", ("192.168.50.1", 2377)),
            ("eth0:4000", ("192.168.50.1", 4000)),
            ("2001:db8::1", ("2001:db8::1", 2377)),
            ("[2001:db8::1]:4000", ("2001:db8::1", 4000)),
            ("[2001:db8::1]", ("2001:db8::1", 2377)),
        ] {
            assert_eq!(
                advertise(text, 2377, &system),
                Ok((ip(expected.0), expected.1)),
                "{text}"
            );
        }
        assert_eq!(
            advertise("nonsense", 2377, &system),
            Err(AddressError::NotAnAddress)
        );
        assert_eq!(
            advertise("0.0.0.0", 2377, &system),
            Err(AddressError::Unspecified)
        );
        assert!(advertise("10.1.1.1:http", 2377, &system).is_err());
    }
}
