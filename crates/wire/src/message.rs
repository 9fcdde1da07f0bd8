//! The messages inside `Hello`, `Open` and `Note` frames, encoded with postcard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The guest's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::limits::PROTOCOL`] of the guest binary.
    pub protocol: u32,
}

/// What the host asks of the guest; each opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Become the sandbox: clock, entropy, names, mounts. Answered by `Done` or `Failed`; the first request, and once.
    Start(Box<Start>),
    /// Run a program. Answered by `Started`, then `Exited`; or by `Failed`. After `Start` or `Warm`.
    Exec(Exec),
    /// Do everything that `Start` and `Exec` will need and that is the same for all sandboxes, and be ready to be saved.
    /// Answered by `Done` or `Failed`; only before `Start`.
    Park(Park),
    /// Get warm for a `Start` that comes later, from somebody else. Answered by `Done` or `Failed`; after `Park`, and once.
    /// Programs can be run then. When `Start` comes, their sessions have to be over; processes that they left are killed.
    Warm(Warm),
    /// End all processes (`SIGTERM`, then `SIGKILL` after `grace_ms`), clean the disks and power off. Answered by `Done` when
    /// the disks are clean, or by `Failed`; then by the link's end.
    PowerOff {
        /// Milliseconds that processes get between the two signals.
        grace_ms: u32,
    },
}

/// How a guest is to be parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Park {
    /// Mounted for good. The image's disk has [`crate::REHEARSAL`] on it, which is run once; when the guest goes on, another
    /// image whose file system and root folder begin at the same places has taken its place.
    pub root: RootDisks,
    /// As in the `Start` to come.
    pub privileged: bool,
    /// Configured for good, if the machine has a network interface: unless `Start` says otherwise nothing is left to do then.
    pub network: Option<NetworkLink>,
}

/// The guest's end of its network interface, `eth0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLink {
    /// Its address, and how many of that's bits are the network's.
    pub ipv4: (Ipv4Addr, u8),
    /// Where everything else goes.
    pub gateway4: Ipv4Addr,
    /// As `ipv4`; for links that are wide enough for IPv6.
    pub ipv6: (Ipv6Addr, u8),
    /// As `gateway4`.
    pub gateway6: Ipv6Addr,
    /// Bytes of the largest packet.
    pub mtu: u16,
}

/// How a parked guest is to get warm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    /// Host entropy, mixed in before anything else: guests that were saved as one share nothing random.
    pub entropy: [u8; 32],
    /// As in `Park`.
    pub root: RootDisks,
    /// The image's disk is the sandbox's own, and the root is moved into. Without it the disk still has
    /// [`crate::REHEARSAL`] on it: that is rehearsed once more, and another image can take its place then as it could before;
    /// programs run where the guest was booted, which has only its `/init`.
    pub image: bool,
}

/// Everything that makes a parked guest one particular sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Host time in nanoseconds since the Unix epoch.
    pub clock_ns: u64,
    /// Host entropy, mixed into the guest kernel's generator before anything else runs.
    pub entropy: [u8; 32],
    /// The guest's host name.
    pub hostname: String,
    /// The network interface, if there is one.
    pub network: Option<NetworkLink>,
    /// A certificate authority that the sandbox trusts beside those of its image.
    pub authority: Option<Authority>,
    /// Resolvers for `/etc/resolv.conf`.
    pub dns_servers: Vec<IpAddr>,
    /// Additional lines of `/etc/hosts`.
    pub add_hosts: Vec<HostEntry>,
    /// The disks that make the root file system.
    pub root: RootDisks,
    /// The user's disks, in mounting order.
    pub disks: Vec<DiskMount>,
    /// Processor time for all commands together, in microseconds per 100 ms.
    pub cpu_quota: Option<u32>,
    /// Commands keep all capabilities and system calls.
    pub privileged: bool,
    /// Say with `Times` when what was done.
    pub timings: bool,
}

/// A certificate authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its certificate in PEM (RFC 7468).
    pub certificate: String,
    /// The name under which OpenSSL looks for it in a folder: a hash of its subject, `.0`.
    pub link: String,
}

/// One name of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The name.
    pub host: String,
    /// Its address.
    pub ip: IpAddr,
}

/// Which block devices, counted from zero in the order of the machine's disks, make the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDisks {
    /// The image, EROFS, read-only.
    pub lower: u32,
    /// The writable layer, ext4 with the folders `upper` and `work`.
    pub upper: u32,
}

/// One of the user's disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskMount {
    /// Block device, counted from zero.
    pub device: u32,
    /// Absolute path in the sandbox, made if it is missing.
    pub mount: String,
    /// Mounted read-only.
    pub readonly: bool,
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program, looked up in the environment's `PATH` if it holds no slash, and its arguments. Never a shell's text,
    /// and not always UTF-8.
    pub argv: Vec<Vec<u8>>,
    /// Set over the agent's own `PATH`, `HOME` and `TERM`.
    pub env: Vec<(String, String)>,
    /// Working folder; the sandbox's own where empty.
    pub cwd: String,
    /// Make the working folder (mode 0755, owned by root) if it is missing, as an image's `WORKDIR` wants it.
    pub create_cwd: bool,
    /// `uid`, `uid:gid`, `name` or `name:group`; the sandbox's own where empty.
    pub user: String,
    /// What the program's standard streams are.
    pub stdio: Stdio,
}

/// What a program's standard streams are connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Output and error are pipes; input is `/dev/null`.
    #[default]
    OutputOnly,
    /// All three are pipes.
    Pipes,
    /// A terminal of its own, as controlling terminal of a new session; its output comes on `Output`.
    Terminal(TerminalSize),
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A message inside a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Guest: the program runs, with this pid in the guest.
    Started {
        /// The guest's number for it.
        pid: u32,
    },
    /// Guest: the program ended, and all it wrote before has been sent.
    Exited(ExitKind),
    /// Guest: the request could not be carried out.
    Failed(Failure),
    /// Guest: the request was carried out.
    Done,
    /// Host: the terminal has another size.
    Resize(TerminalSize),
    /// Guest: what was done when, before `Done` where that was asked for.
    Times(Vec<Milestone>),
}

/// Something that a guest has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// What, for people.
    pub what: String,
    /// Microseconds after the request had arrived.
    pub after_us: u32,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitKind {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// Why a request could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of failure, for the exit code.
    pub kind: FailureKind,
    /// One line for the user: a lower-case fragment without a full stop.
    pub message: String,
}

/// Sorts of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program, its user or its working folder does not exist.
    NotFound,
    /// The program exists but cannot be executed.
    NotExecutable,
    /// Anything else.
    Internal,
}
