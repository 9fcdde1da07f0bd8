//! The floor's QEMU: a command line, a line for the agent, and a line for QEMU's control protocol (QMP).

use std::{
    fs::File,
    io::{BufRead, BufReader, IoSlice, Read as _, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use command_fds::{CommandFdExt, FdMapping};
use matchlock_sandbox::vmm::qemu::ALLOCATOR;
use matchlock_testkit::tool;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// Memory of the guest.
const MEMORY: &str = "256M";

/// How long any answer may take: a boot on a busy host with room to spare.
const DEADLINE: Duration = Duration::from_mins(1);

/// Descriptors that QEMU is started with.
const AGENT_FD: i32 = 3;
const MONITOR_FD: i32 = 4;

/// What a machine is made from, and where it is saved.
pub(super) struct Guest {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) memory: PathBuf,
    pub(super) state: PathBuf,
    /// What its kernel says.
    pub(super) console: PathBuf,
    pub(super) tsc_khz: Option<u64>,
}

/// A QEMU that runs. Dropped, it is killed.
pub(super) struct Machine {
    qemu: Child,
    agent: BufReader<UnixStream>,
    monitor: BufReader<UnixStream>,
}

impl Machine {
    /// Boot, with memory in a file, ready to be saved.
    pub(super) fn boot(guest: &Guest, disk: &Path) -> Result<Self> {
        Self::start(guest, disk, "on", &[])
    }

    /// Continue the guest that was saved. Does not wait for it.
    pub(super) fn restore(guest: &Guest, disk: &Path) -> Result<Self> {
        let mut machine = Self::start(guest, disk, "off", &["-incoming", "defer"])?;
        machine.command("migrate-set-capabilities", &capabilities(&["x-ignore-shared"]))?;
        machine.pass(&File::open(&guest.state)?)?;
        machine.command("migrate-incoming", &json!({ "uri": "fd:state" }))?;
        Ok(machine)
    }

    fn start(guest: &Guest, disk: &Path, share: &str, more: &[&str]) -> Result<Self> {
        let (agent, guests) = UnixStream::pair()?;
        let (monitor, qemus) = UnixStream::pair()?;
        let mapping = |parent_fd: OwnedFd, child_fd| FdMapping { parent_fd, child_fd };
        let mut qemu = tool("qemu-system-x86_64", "qemu-system-x86")?;
        qemu.args(arguments(guest, disk, share)).args(more).stdin(Stdio::null()).stdout(Stdio::null());
        qemu.env(ALLOCATOR.0, ALLOCATOR.1);
        qemu.fd_mappings(vec![mapping(guests.into(), AGENT_FD), mapping(qemus.into(), MONITOR_FD)])?;
        let child = qemu.spawn()?;
        // The command holds copies of QEMU's ends, with which a link would outlive its QEMU.
        drop::<Command>(qemu);
        for stream in [&agent, &monitor] {
            stream.set_read_timeout(Some(DEADLINE))?;
        }
        let mut machine = Self { qemu: child, agent: BufReader::new(agent), monitor: BufReader::new(monitor) };
        machine.command("qmp_capabilities", &json!({}))?;
        Ok(machine)
    }

    /// Write state and memory to their files. The machine ends with this.
    pub(super) fn save(mut self, state: &File) -> Result<()> {
        // Without memory, which is in its file already. It is not told to stop, which would be part of its state.
        self.command("migrate-set-capabilities", &capabilities(&["x-ignore-shared", "events"]))?;
        self.pass(state)?;
        self.command("migrate", &json!({ "uri": "fd:state" }))?;
        loop {
            let line: Value = serde_json::from_str(&line_of(&mut self.monitor)?)?;
            match line["data"]["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    self.command("query-migrate", &json!({}))?;
                    bail!("the guest cannot be saved: {}", line_of(&mut self.monitor)?);
                }
                _ => ensure!(line["error"].is_null(), "QEMU: {}", line["error"]),
            }
        }
    }

    /// Tell the agent something.
    pub(super) fn tell(&mut self, order: &str) -> Result<()> {
        Ok(self.agent.get_mut().write_all(format!("{order}\n").as_bytes())?)
    }

    /// What the agent says next.
    pub(super) fn hear(&mut self) -> Result<String> {
        line_of(&mut self.agent).or_else(|silent| {
            // A refusal is the likely reason, and stands in what the monitor has said so far.
            self.monitor.get_ref().set_nonblocking(true)?;
            let said: Vec<String> = self.monitor.by_ref().lines().map_while(Result::ok).collect();
            Err(silent.context(said.join("\n")))
        })
    }

    /// Have QEMU do something, without waiting for its answer.
    fn command(&mut self, command: &str, arguments: &Value) -> Result<()> {
        Ok(self.monitor.get_mut().write_all(&line(command, arguments))?)
    }

    /// Give QEMU a copy of a file, to be called "state" in later commands.
    fn pass(&mut self, file: &File) -> Result<()> {
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        let line = line("getfd", &json!({ "fdname": "state" }));
        let sent = sendmsg(self.monitor.get_ref(), &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(self.monitor.get_mut().write_all(&line[sent..])?)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn arguments(guest: &Guest, disk: &Path, share: &str) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let clock = guest.tsc_khz.map(|khz| format!(" tsc_early_khz={khz} tsc=reliable")).unwrap_or_default();
    let cmdline = format!(
        "console=ttyS0 reboot=t panic=-1 quiet cryptomgr.notests psi=0 noautogroup lsm=landlock,yama norandmaps{clock}"
    );
    let memory = format!("memory-backend-file,id=ram,size={MEMORY},mem-path={},share={share}", path(&guest.memory));
    let disk = json!({ "driver": "raw", "node-name": "image", "read-only": true,
                       "file": { "driver": "file", "filename": path(disk), "drop-cache": false } });
    let agent = format!("socket,id=agent,fd={AGENT_FD}");
    let monitor = format!("socket,id=monitor,fd={MONITOR_FD}");
    let console = format!("file:{}", path(&guest.console));
    let (kernel, initramfs, disk) = (path(&guest.kernel), path(&guest.initramfs), disk.to_string());
    [
        &["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", &console][..],
        &["-machine", "microvm,memory-backend=ram,rtc=on,isa-serial=on,pit=on,pic=on"],
        &["-object", &memory, "-m", MEMORY, "-accel", "tcg,thread=multi", "-cpu", "max,erms=off"],
        &["-kernel", &kernel, "-initrd", &initramfs, "-append", &cmdline],
        &["-device", "virtio-serial-device,max_ports=2", "-chardev", &agent],
        &["-device", "virtserialport,nr=1,chardev=agent,name=floor"],
        &["-blockdev", &disk, "-device", "virtio-blk-device,drive=image"],
        &["-chardev", &monitor, "-mon", "chardev=monitor,mode=control"],
    ]
    .concat()
    .into_iter()
    .map(ToOwned::to_owned)
    .collect()
}

fn capabilities(names: &[&str]) -> Value {
    let all: Vec<_> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": all })
}

fn line(command: &str, arguments: &Value) -> Vec<u8> {
    format!("{}\n", json!({ "execute": command, "arguments": arguments })).into_bytes()
}

fn line_of(stream: &mut BufReader<UnixStream>) -> Result<String> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).context("no answer within the deadline")?;
    ensure!(length > 0, "QEMU has ended");
    Ok(line.trim().to_owned())
}
