//! The one message that turns a booted guest into this sandbox. Pure: specification and host facts in, message out.

use std::path::PathBuf;

use matchlock_model::SandboxSpec;
use matchlock_vmm::Disk;
use matchlock_wire::{Authority, DiskMount, HostEntry, NetworkLink, RootDisks, Start};

/// Block devices of every sandbox, in the machine's order; the user's disks follow.
pub(crate) const LOWER: u32 = 0;
/// The writable layer's number.
pub(crate) const UPPER: u32 = 1;

/// The machine's disks for `spec`: image, writable layer, the user's own, which are at `own` now.
pub(crate) fn disks(spec: &SandboxSpec, image: PathBuf, upper: PathBuf, own: Vec<PathBuf>) -> Vec<Disk> {
    let own = spec.extra_disks.iter().zip(own);
    let own = own.map(|(disk, file)| {
        let own = if disk.readonly { Disk::readonly(file) } else { Disk::durable(file) };
        own.called(&disk.host_path)
    });
    [Disk::readonly(image), Disk::scratch(upper)].into_iter().chain(own).collect()
}

/// What the guest is told, but for clock and entropy. On a link without servers of the user's choice, the gateway is asked.
pub(crate) fn message(spec: &SandboxSpec, link: Option<NetworkLink>, authority: Option<Authority>) -> Start {
    let network = &spec.network;
    let gateway = link.iter().map(|link| link.gateway4.into());
    let servers = &network.dns_servers;
    let disks = spec.extra_disks.iter().zip(UPPER + 1..).map(|(disk, device)| DiskMount {
        device,
        mount: disk.guest_mount.clone(),
        readonly: disk.readonly,
    });
    Start {
        hostname: if network.hostname.is_empty() { spec.id.to_string() } else { network.hostname.clone() },
        dns_servers: if servers.is_empty() { gateway.collect() } else { servers.clone() },
        network: link,
        authority,
        add_hosts: network.add_hosts.iter().map(|h| HostEntry { host: h.host.clone(), ip: h.ip }).collect(),
        root: RootDisks { lower: LOWER, upper: UPPER },
        disks: disks.collect(),
        cpu_quota: spec.resources.cpus.quota(),
        privileged: spec.privileged,
        ..Start::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use matchlock_model::{ExtraDisk, ImageConfig, Network, Resources, SandboxId};

    use super::*;

    #[test]
    fn the_users_disks_are_numbered_as_the_machine_has_them() {
        let disk = |name: &str, readonly| ExtraDisk {
            host_path: PathBuf::from(name),
            guest_mount: format!("/mnt{name}"),
            readonly,
        };
        let spec = SandboxSpec {
            id: SandboxId::from_random([1; 4]),
            image: "debian".to_owned(),
            privileged: false,
            resources: Resources::default(),
            network: Network::default(),
            env: [].into(),
            extra_disks: vec![disk("/a", false), disk("/b", true)],
            image_config: ImageConfig::default(),
        };
        // Where they are opened is not what their user calls them.
        let own = spec.extra_disks.iter().map(|disk| Path::new("/fd").join(disk.host_path.strip_prefix("/").unwrap()));
        let own = own.collect();
        let machine = disks(&spec, "/image".into(), "/upper".into(), own);
        let start = message(&spec, None, None);
        assert_eq!(start.hostname, spec.id.as_str());
        assert_eq!(machine[start.root.lower as usize].file, PathBuf::from("/image"));
        assert_eq!(machine[start.root.upper as usize].file, PathBuf::from("/upper"));
        for mount in &start.disks {
            let disk = &machine[mount.device as usize];
            assert_eq!((format!("/mnt{}", disk.name.display()), disk.readonly), (mount.mount.clone(), mount.readonly));
            assert_eq!(disk.file, Path::new("/fd").join(disk.name.strip_prefix("/").unwrap()));
        }
    }
}
