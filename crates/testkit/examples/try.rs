use matchlock_testkit::images;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let b = images::debian()?;
    println!("{} {:?}", b.display(), t.elapsed());
    let t = std::time::Instant::now();
    let _home = matchlock_testkit::Home::with_image("debian:test", &b)?;
    println!("import {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let home = matchlock_testkit::Home::with_image("debian:test", &b)?;
    println!("again {:?}", t.elapsed());
    println!("{}", home.matchlock(["run", "--image", "debian:test", "--", "node", "-e", "console.log(6*7)"]).run()?);
    Ok(())
}
