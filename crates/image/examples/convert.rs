//! Layer tars to an EROFS image: `convert OUT LAYER...`, base first. Prints what it took.

use std::{
    error::Error,
    fs::File,
    io::{Write, stdout},
    time::Instant,
};

use matchlock_image::{Converter, Limits};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let out = args.next().ok_or("usage: convert OUT LAYER...")?;
    let start = Instant::now();
    let mut converter = Converter::create(File::create(out)?, Limits::default())?;
    let mut unpacked = 0;
    for layer in args {
        let applied = converter.apply_layer(File::open(layer)?)?;
        unpacked += applied.uncompressed_bytes;
        writeln!(stdout(), "{} {} entries", applied.diff_id, applied.entries)?;
    }
    let applied = start.elapsed();
    let image = converter.finish()?;
    writeln!(
        stdout(),
        "{} inodes, {} bytes; {unpacked} unpacked bytes in {applied:.2?}, with metadata and fsync {:.2?}; peak memory {}",
        image.inodes,
        image.bytes,
        start.elapsed(),
        peak_memory()?,
    )?;
    Ok(())
}

fn peak_memory() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(peak.trim().to_owned())
}
