//! The machine that the gateway runs on.

use std::{
    io,
    net::{IpAddr, SocketAddrV4, SocketAddrV6},
};

use nix::ifaddrs::getifaddrs;

/// The addresses of all links of this machine, as they are now, for [`Policy::own_addresses`](crate::policy::Policy): a public
/// one is not told from others by its looks, and what listens on it may trust whoever comes from the machine itself.
///
/// # Errors
/// If the kernel does not tell them.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for link in getifaddrs()?.filter_map(|link| link.address) {
        let v4 = link.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).ip().to_owned().into());
        let v6 = link.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).ip().to_owned().into());
        addresses.extend(v4.or(v6).filter(|address| !addresses.contains(address)));
    }
    Ok(addresses)
}
