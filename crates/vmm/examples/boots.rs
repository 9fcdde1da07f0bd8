//! Boot guests one after another, and say how long each took: `cargo run -p matchlock-vmm --example boots -- [COUNT] [KERNEL WORDS…]`.
//!
//! The measure behind the choices in `qemu::args`, and the proof that boots do not hang.

#![expect(clippy::print_stdout, reason = "its result")]

use std::{
    error::Error,
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use matchlock_model::CacheLayout;
use matchlock_vmm::{Accelerator, Deadlines, GUEST, Machine, Policy, boot, initramfs, kernel, qemu::Qemu};
use tokio::io::AsyncReadExt;

/// Bytes of the guest's greeting.
const GREETING: usize = 13;

async fn greeted(control: UnixStream) -> io::Result<()> {
    let mut control = tokio::net::UnixStream::from_std(control)?;
    control.read_exact(&mut [0; GREETING]).await.map(drop)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let count = args.next().map_or(Ok(10), |count| count.parse())?;
    let cache = CacheLayout::new(&PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?));
    let since = Instant::now();
    let qemu = Qemu::find(&cache.host())?;
    let kernel = kernel::resolve(None, &cache.kernels(), qemu.transport())?;
    let modules = kernel.modules(qemu.transport())?;
    println!("QEMU {}, Linux {}, {} modules", qemu.version(), kernel.version, modules.len());
    let machine = Machine {
        vcpus: 1,
        memory_mb: 256,
        kernel: kernel.image,
        initramfs: initramfs::assemble(&cache.initramfs(), GUEST, &modules)?,
        cmdline: args.collect(),
        disks: Vec::new(),
        nic: None,
        console_log: None,
    };
    println!("prepared in {} ms", since.elapsed().as_millis());
    let attempts = AtomicUsize::new(0);
    let ready = async |_, control| {
        attempts.fetch_add(1, Ordering::Relaxed);
        greeted(control).await
    };
    let mut times = Vec::new();
    for _ in 0..count {
        let since = Instant::now();
        boot(&qemu, &machine, Policy::Only(Accelerator::Tcg), Deadlines::default(), &ready).await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get((times.len().saturating_sub(1)) * part / 100).map_or(0, Duration::as_millis);
    println!("{} boots in {} attempts", times.len(), attempts.into_inner());
    println!("milliseconds: least {}, half below {}, most {}", at(0), at(50), at(100));
    Ok(())
}
