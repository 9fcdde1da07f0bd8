//! QEMU's command line as a value.
//!
//! Understood by QEMU 7.2 to 10. Invariant: a pure function of the machine and of what was found out about host and
//! QEMU. Files and sockets appear only as descriptor numbers, so no path of the user's is ever part of QEMU's own syntax.

use std::{ffi::OsString, path::Path};

use matchlock_wire::PORT_NAME;

use super::{disk as node, probe::Board};
use crate::{
    accel::Accelerator,
    machine::{Disk, Machine},
};

/// Descriptors that QEMU is started with, by what they are; the disks' follow.
pub(super) const CONTROL_FD: i32 = 3;
pub(super) const CONSOLE_FD: i32 = 4;
pub(super) const MONITOR_FD: i32 = 5;
pub(super) const MEMORY_FD: i32 = 6;
pub(super) const KERNEL_FD: i32 = 7;
pub(super) const TAP_FD: i32 = 8;
pub(super) const FIRST_DISK_FD: i32 = 9;

/// Most disks of one machine: `microvm` has 24 places for virtio devices, of which the first does not work (QEMU 7.2 with
/// Linux 6.1: its interrupt never arrives), the control link takes one, and one is the network interface's.
pub const MAX_DISKS: usize = 21;

/// All their numbers are below this.
pub(crate) const DESCRIPTORS: usize = FIRST_DISK_FD.cast_unsigned() as usize + MAX_DISKS;

/// The guest's hardware address, the same in all sandboxes: no two can meet.
const MAC: &str = "aa:fc:00:00:00:02";

/// No system call that a running machine has no use for.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The kernel's console; end instead of waiting or rebooting when something is wrong; leave out the kernel's
/// tests of its own ciphers, which take an emulated guest half a second, and what no program of a sandbox goes by: statistics of
/// stalls, shares of the processor by terminal, and all security modules but those that programs confine themselves with.
const CMDLINE: &str = "console=ttyS0 reboot=t panic=-1 quiet cryptomgr.notests psi=0 noautogroup lsm=landlock,yama";

/// For emulated guests: programs lie at the same addresses whenever they run, so that the emulator's translations of them
/// are used again. It knows code by its address, and a dynamically linked program starts six times as fast (docs/adr/0004).
const EMULATED_CMDLINE: &str = "norandmaps";

/// Everything on which the command line depends beside the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) board: Board,
    pub(super) accelerator: Accelerator,
    /// Rate of the host's time-stamp counter, where it is invariant.
    pub(super) tsc_khz: Option<u64>,
    pub(super) memory: Memory,
}

/// What the guest's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// The process's own.
    Anonymous,
    /// A file that is to hold it, for the machine is to be saved.
    Written,
    /// A file that holds a saved guest's; what this one changes stays its own.
    Restored,
}

/// The arguments after the program's name, with `kernel` in place of the machine's.
pub(super) fn arguments(machine: &Machine, kernel: &Path, host: Host) -> Vec<OsString> {
    let devices = 1 + machine.disks.len() + usize::from(machine.nic.is_some());
    let mut args = Args { words: Vec::new(), board: host.board, devices };
    args.words(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", SANDBOX]);
    args.board(machine, host);
    args.option("-kernel", kernel.as_os_str());
    args.option("-initrd", machine.initramfs.as_os_str());
    args.option("-append", command_line(machine, host));
    args.option("-chardev", format!("socket,id=console,fd={CONSOLE_FD}"));
    args.option("-serial", "chardev:console");
    // Two ports: the kernel's unused console, and ours. More would cost the guest a pair of queues each.
    args.device("virtio-serial", 0, "max_ports=2");
    args.option("-chardev", format!("socket,id=control,fd={CONTROL_FD}"));
    args.option("-device", format!("virtserialport,nr=1,chardev=control,name={PORT_NAME}"));
    for (position, disk) in machine.disks.iter().enumerate() {
        args.disk(position, disk);
    }
    if machine.nic.is_some() {
        args.nic(1 + machine.disks.len());
    }
    if host.memory != Memory::Anonymous {
        args.option("-chardev", format!("socket,id=monitor,fd={MONITOR_FD}"));
        args.option("-mon", "chardev=monitor,mode=control");
    }
    if host.memory == Memory::Restored {
        args.option("-incoming", "defer");
    }
    args.words
}

struct Args {
    words: Vec<OsString>,
    board: Board,
    /// Virtio devices in all.
    devices: usize,
}

impl Args {
    fn words(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(OsString::from));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.words.extend([name.into(), value.into()]);
    }

    fn board(&mut self, machine: &Machine, host: Host) {
        let memory = machine.memory_mb;
        let file = |share| {
            format!("memory-backend-file,id=ram,size={memory}M,mem-path=/proc/self/fd/{MEMORY_FD},share={share}")
        };
        let backend = match host.memory {
            Memory::Anonymous => format!("memory-backend-ram,id=ram,size={memory}M"),
            Memory::Written => file("on"),
            Memory::Restored => file("off"),
        };
        self.option("-object", backend);
        self.option("-m", format!("{memory}M"));
        self.option("-smp", machine.vcpus.to_string());
        match host.board {
            Board::Microvm => {
                self.option("-machine", "microvm,memory-backend=ram,rtc=on,isa-serial=on,pit=on,pic=on");
            }
            Board::Q35 => {
                self.option("-machine", "q35,memory-backend=ram,usb=off,vmport=off,hpet=off,smbus=off,sata=off");
            }
        }
        match host.accelerator {
            Accelerator::Kvm => {
                self.option("-accel", "kvm");
                self.option("-cpu", "host");
            }
            Accelerator::Tcg => {
                self.option("-accel", "tcg,thread=multi");
                // Without ERMS the guest copies and clears memory in words of eight bytes: the emulator executes one
                // step of a string instruction after the other, and byte-wise ones cost eight times as many.
                self.option("-cpu", "max,erms=off");
            }
        }
    }

    /// The virtio device that the guest is to find as number `number`, counted from zero.
    fn device(&mut self, kind: &str, number: usize, properties: &str) {
        let device = match self.board {
            // Linux finds them from the highest place downwards, because that is their order in QEMU's ACPI tables.
            Board::Microvm => format!("{kind}-device,bus=virtio-mmio-bus.{},{properties}", self.devices - number),
            Board::Q35 => format!("{kind}-pci,disable-legacy=on,addr={:#x},{properties}", number + 2),
        };
        self.option("-device", device);
    }

    fn disk(&mut self, position: usize, disk: &Disk) {
        let set = node::set(position);
        let fd = FIRST_DISK_FD.saturating_add_unsigned(u32::try_from(position).unwrap_or(u32::MAX));
        self.option("-add-fd", format!("fd={fd},set={set}"));
        self.option("-blockdev", node::node(position, disk).to_string());
        let discard = if disk.discard { "on" } else { "off" };
        // The guest is told of every error: by default QEMU stops the machine when the host's disk is full.
        let drive = node::name(position);
        let properties = format!("drive={drive},discard={discard},werror=report,rerror=report");
        self.device("virtio-blk", position + 1, &properties);
    }

    fn nic(&mut self, number: usize) {
        self.option("-netdev", format!("tap,id=net,fd={TAP_FD}"));
        // After a restore nobody has to be told that the guest is somewhere else now.
        let properties = format!("netdev=net,mac={MAC},guest_announce=off");
        let rom = match self.board {
            Board::Microvm => "",
            // Nothing is ever booted from it.
            Board::Q35 => ",romfile=",
        };
        self.device("virtio-net", number, &format!("{properties}{rom}"));
    }
}

fn command_line(machine: &Machine, host: Host) -> String {
    let mut words = vec![CMDLINE.to_owned()];
    if host.accelerator == Accelerator::Tcg {
        words.push(EMULATED_CMDLINE.to_owned());
        words.extend(host.tsc_khz.map(|khz| format!("tsc_early_khz={khz} tsc=reliable")));
    }
    words.extend(machine.cmdline.iter().cloned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Nic;

    fn machine() -> Machine {
        Machine {
            vcpus: 2,
            memory_mb: 512,
            kernel: "/cache/kernel".into(),
            initramfs: "/cache/a,b.cpio".into(),
            cmdline: vec!["matchlock.test=1".into()],
            disks: vec![Disk::readonly("/images/x.erofs".into()), Disk::scratch("/vms/x/upper.ext4".into())],
            nic: Some(Nic::default()),
            console_log: None,
        }
    }

    /// One option with its value on each line.
    fn shown(machine: &Machine, host: Host) -> String {
        let words = arguments(machine, &machine.kernel, host);
        let words = words.iter().map(|word| word.to_str().unwrap());
        let lines =
            words.fold(String::new(), |text, word| text + if word.starts_with('-') { "\n" } else { " " } + word);
        lines.trim_start().to_owned()
    }

    #[test]
    fn emulated_microvm() {
        let host = Host {
            board: Board::Microvm,
            accelerator: Accelerator::Tcg,
            tsc_khz: Some(2_445_406),
            memory: Memory::Anonymous,
        };
        insta::assert_snapshot!(shown(&machine(), host), @r#"
        -nodefaults
        -no-user-config
        -display none
        -no-reboot
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -object memory-backend-ram,id=ram,size=512M
        -m 512M
        -smp 2
        -machine microvm,memory-backend=ram,rtc=on,isa-serial=on,pit=on,pic=on
        -accel tcg,thread=multi
        -cpu max,erms=off
        -kernel /cache/kernel
        -initrd /cache/a,b.cpio
        -append console=ttyS0 reboot=t panic=-1 quiet cryptomgr.notests psi=0 noautogroup lsm=landlock,yama norandmaps tsc_early_khz=2445406 tsc=reliable matchlock.test=1
        -chardev socket,id=console,fd=4
        -serial chardev:console
        -device virtio-serial-device,bus=virtio-mmio-bus.4,max_ports=2
        -chardev socket,id=control,fd=3
        -device virtserialport,nr=1,chardev=control,name=matchlock.control
        -add-fd fd=9,set=1
        -blockdev {"cache":{"direct":false,"no-flush":true},"discard":"ignore","driver":"raw","file":{"driver":"file","drop-cache":false,"filename":"/dev/fdset/1"},"node-name":"disk0","read-only":true}
        -device virtio-blk-device,bus=virtio-mmio-bus.3,drive=disk0,discard=off,werror=report,rerror=report
        -add-fd fd=10,set=2
        -blockdev {"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"driver":"file","drop-cache":false,"filename":"/dev/fdset/2"},"node-name":"disk1","read-only":false}
        -device virtio-blk-device,bus=virtio-mmio-bus.2,drive=disk1,discard=on,werror=report,rerror=report
        -netdev tap,id=net,fd=8
        -device virtio-net-device,bus=virtio-mmio-bus.1,netdev=net,mac=aa:fc:00:00:00:02,guest_announce=off
        "#);
    }

    #[test]
    fn kvm_on_a_pci_board() {
        let host = Host {
            board: Board::Q35,
            accelerator: Accelerator::Kvm,
            tsc_khz: Some(2_445_406),
            memory: Memory::Anonymous,
        };
        let machine = Machine { disks: vec![Disk::durable("/volumes/v.ext4".into())], ..machine() };
        insta::assert_snapshot!(shown(&machine, host), @r#"
        -nodefaults
        -no-user-config
        -display none
        -no-reboot
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -object memory-backend-ram,id=ram,size=512M
        -m 512M
        -smp 2
        -machine q35,memory-backend=ram,usb=off,vmport=off,hpet=off,smbus=off,sata=off
        -accel kvm
        -cpu host
        -kernel /cache/kernel
        -initrd /cache/a,b.cpio
        -append console=ttyS0 reboot=t panic=-1 quiet cryptomgr.notests psi=0 noautogroup lsm=landlock,yama matchlock.test=1
        -chardev socket,id=console,fd=4
        -serial chardev:console
        -device virtio-serial-pci,disable-legacy=on,addr=0x2,max_ports=2
        -chardev socket,id=control,fd=3
        -device virtserialport,nr=1,chardev=control,name=matchlock.control
        -add-fd fd=9,set=1
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"driver":"file","drop-cache":false,"filename":"/dev/fdset/1"},"node-name":"disk0","read-only":false}
        -device virtio-blk-pci,disable-legacy=on,addr=0x3,drive=disk0,discard=on,werror=report,rerror=report
        -netdev tap,id=net,fd=8
        -device virtio-net-pci,disable-legacy=on,addr=0x4,netdev=net,mac=aa:fc:00:00:00:02,guest_announce=off,romfile=
        "#);
    }
}
