//! Where images come from and where they go: registries, archives, names, and what is refused.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use matchlock_testkit::{
    Compression, Home, ImageSpec, LayerTar, LoopbackRegistry, OciLayout, Options, busybox_layer, run, tool,
};
use matchlock_tests::{Sandbox, complaints, import};

/// A small image whose `/etc/motd` holds `text`.
fn image(text: &str) -> Result<ImageSpec> {
    let text = LayerTar::new().file("etc/motd", 0o644, format!("{text}\n").as_bytes())?.finish()?;
    Ok(ImageSpec::new(vec![busybox_layer()?, text]))
}

/// The converted images and kept layers of a home.
fn blobs(home: &Home) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in [home.cache().blobs(), home.cache().layers()] {
        let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        found.extend(paths.into_iter().filter(|path| path.extension() != Some("lock".as_ref())));
    }
    Ok(found)
}

/// What `image ls` shows, without sizes and times: name and source.
fn listed(home: &Home) -> Result<Vec<String>> {
    let table = home.matchlock(["image", "ls"]).run()?.success()?.stdout();
    let columns = |row: &str| row.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    Ok(table.lines().map(columns).collect())
}

#[test]
fn what_was_pulled_once_runs_without_the_registry() -> Result<()> {
    let home = Home::new()?;
    let registry = LoopbackRegistry::start(Options::default())?;
    let mut image = image("pulled")?;
    image.layers[1].1 = Compression::Zstd;
    registry.push(&OciLayout::of(&image)?, "team/app:1")?;
    let name = registry.reference("team/app:1");

    let pulled = home.matchlock(["pull", "-t", "mine", &name]).run()?.success()?;
    let said = pulled.stdout().replace(&name, "NAME");
    let said: Vec<_> = said.lines().map(|line| line.split(" sha256:").next().unwrap_or_default()).collect();
    assert_eq!(said[..3], ["Pulling NAME...", "Tagged: mine", "Digest:"]);
    assert!(said[3].starts_with("Size: ") && said[3].ends_with(" MB"), "{pulled}");
    assert_eq!(pulled.stderr(), "pulling 2 layers, 2 MB compressed\n");
    assert_eq!(listed(&home)?, ["TAG SOURCE".to_owned(), "mine tag".to_owned(), format!("{name} registry")]);
    drop(registry);

    let ended = home.matchlock(["run", "--image", &name, "--", "cat", "/etc/motd"]).run()?.success()?;
    assert_eq!((ended.stdout().as_str(), complaints(&ended).as_str()), ("pulled\n", ""));
    let refused = home.matchlock(["pull", "--force", &name]).run()?.exits_with(1)?;
    assert!(refused.stderr().contains("cannot reach registry localhost:"), "{refused}");

    // The names go one by one, the content with the last of them.
    assert_eq!(home.matchlock(["image", "rm", &name]).run()?.success()?.stdout(), format!("Removed {name}\n"));
    assert!(!blobs(&home)?.is_empty());
    home.matchlock(["image", "rm", "mine"]).run()?.success()?;
    assert_eq!((blobs(&home)?, listed(&home)?), (vec![], vec!["TAG SOURCE".to_owned()]));
    let again = home.matchlock(["image", "rm", "mine"]).run()?.exits_with(1)?;
    assert_eq!(again.stderr(), "image not found: \"mine\"\n");
    Ok(())
}

#[test]
fn a_private_registry_is_entered_as_docker_would() -> Result<()> {
    let home = Home::new()?;
    let registry = LoopbackRegistry::start(Options { tls: true, login: Some(("user", "secret")) })?;
    registry.push(&OciLayout::of(&image("private")?)?, "app:1")?;
    let name = registry.reference("app:1");
    let run = || home.matchlock(["run", "--image", &name, "--", "cat", "/etc/motd"]);

    let unknown = run().run()?.exits_with(1)?;
    let certificates = home.path().join(".config/containers");
    fs::create_dir_all(&certificates)?;
    symlink(registry.certificate_dir()?, certificates.join("certs.d"))?;
    let locked = run().run()?.exits_with(1)?;
    let told = (unknown.stderr() + &locked.stderr()).replace(&registry.host(), "HOST");
    insta::assert_snapshot!(told, @r"
    building rootfs: pull image: the certificate of HOST is not trusted (invalid peer certificate: UnknownIssuer); put its CA into /etc/docker/certs.d/HOST/ca.crt
    building rootfs: pull image: HOST has no image app:1, or hides it from strangers (UNAUTHORIZED); check the name, or run: docker login HOST
    ");
    assert_eq!(blobs(&home)?, [] as [PathBuf; 0]);

    // "user:secret"
    let login = serde_json::json!({"auths": {registry.host(): {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::create_dir(home.path().join("docker"))?;
    fs::write(home.path().join("docker/config.json"), login.to_string())?;
    let ended = run().env("DOCKER_CONFIG", home.path().join("docker")).run()?.success()?;
    assert_eq!(ended.stdout(), "private\n");
    Ok(())
}

/// `image` as an archive of the kind that skopeo calls `kind`.
fn archive(image: &ImageSpec, kind: &str, path: &Path) -> Result<()> {
    let layout = OciLayout::of(image)?;
    let (from, to) = (format!("oci:{}", layout.path().display()), format!("{kind}:{}:app:1", path.display()));
    run(tool("skopeo", "skopeo")?.args(["--insecure-policy", "copy", "--quiet", &from, &to])).map(drop)
}

#[test]
fn an_image_whose_proc_is_a_link_is_refused_in_words() -> Result<()> {
    let home = Home::new()?;
    let link = LayerTar::new().symlink("proc", "/nowhere")?.finish()?;
    import(&home, "linked:1", &ImageSpec::new(vec![busybox_layer()?, link]))?;
    let refused = home.matchlock(["run", "--image", "linked:1", "--", "true"]).run()?.exits_with(1)?;
    assert!(complaints(&refused).ends_with("guest: mount /proc on the image's /proc: not a folder\n"), "{refused}");
    home.assert_nothing_left()
}

#[test]
fn a_new_import_under_an_old_name_is_what_runs_next() -> Result<()> {
    let home = Home::new()?;
    for (kind, text) in [("docker-archive", "first"), ("oci-archive", "second")] {
        let file = home.path().join(kind);
        archive(&image(text)?, kind, &file)?;
        let imported = home.matchlock(["image", "import", "app:1"]).stdin_file(&file).run()?.success()?;
        assert!(imported.stdout().starts_with("Imported: app:1\nDigest: sha256:"), "{imported}");
        let ended = home.matchlock(["run", "--image", "app:1", "--", "cat", "/etc/motd"]).run()?.success()?;
        assert_eq!(ended.stdout(), format!("{text}\n"));
        assert_eq!(listed(&home)?, ["TAG SOURCE", "app:1 import"]);
    }
    // The first one's content went with its name.
    assert_eq!(blobs(&home)?.len(), 1);
    assert_eq!(home.matchlock(["image", "gc"]).run()?.success()?.stdout(), "Removed 0 unreferenced blobs\n");
    Ok(())
}

/// An archive whose layer has a file that wants to be put elsewhere.
fn escaping() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "out of bounds")?;
    let layer = dir.path().join("layer.tar");
    let (source, target) = (dir.path().display().to_string(), layer.display().to_string());
    run(tool("tar", "tar")?.args(["-cPf", &target, "-C", &source, "--transform=s,^,../../../,", "file"]))?;
    OciLayout::of(&ImageSpec::new(vec![fs::read(layer)?]))?.to_tar()
}

/// An archive that names a file of the host as its configuration.
fn pointing_out() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    symlink("/etc/passwd", dir.path().join("config.json"))?;
    fs::write(dir.path().join("manifest.json"), r#"[{"Config":"config.json","RepoTags":null,"Layers":[]}]"#)?;
    let archive = dir.path().join("archive.tar");
    let (source, target) = (dir.path().display().to_string(), archive.display().to_string());
    run(tool("tar", "tar")?.args(["-cf", &target, "-C", &source, "config.json", "manifest.json"]))?;
    Ok(fs::read(archive)?)
}

#[test]
fn a_bad_archive_is_refused_in_one_line_and_leaves_nothing() -> Result<()> {
    let home = Home::new()?;
    let good = OciLayout::of(&image("good")?)?;
    let whole = good.to_tar()?;
    let half = whole[..whole.len() / 2].to_vec();
    let text = b"this is not an archive, whatever its name may be".repeat(40);
    let mut told = String::new();
    for (what, archive) in [
        ("empty", Vec::new()),
        ("text", text),
        ("half", half),
        ("escaping", escaping()?),
        ("pointing out", pointing_out()?),
    ] {
        let ended = home.matchlock(["image", "import", "bad"]).stdin(archive).run()?.exits_with(1)?;
        let said = ended.stderr();
        let lines: Vec<&str> = said.lines().collect();
        ensure!(lines.len() == 2 && lines[0] == "Importing bad from stdin..." && ended.stdout.is_empty(), "{ended}");
        // Where a cut falls depends on the order of the members.
        writeln!(told, "{what}: {}", lines[1].split(", within").next().unwrap_or_default())?;
        assert_eq!((blobs(&home)?, listed(&home)?), (vec![], vec!["TAG SOURCE".to_owned()]), "{what}");
    }
    insta::assert_snapshot!(told, @r#"
    empty: import image: tarball: the input is empty
    text: import image: tarball: the input is not a tar archive (its first block is no tar header)
    half: import image: tarball: the archive ends early
    escaping: import image: extract image: layer 1: layer entry "../../../file": path with a .. component
    pointing out: import image: tarball: archive member "config.json" has a name that leaves the archive
    "#);
    Ok(())
}

#[test]
fn an_image_may_be_removed_under_a_sandbox_that_runs_from_it() -> Result<()> {
    let home = Home::new()?;
    // Where nothing could be pulled from instead.
    let name = "localhost:1/app";
    import(&home, name, &image("still here")?)?;
    let sandbox = Sandbox::idle(&home, name, &[])?;
    home.matchlock(["image", "rm", name]).run()?.success()?;
    home.matchlock(["image", "gc"]).run()?.success()?;
    assert_eq!(blobs(&home)?, [] as [PathBuf; 0]);
    assert_eq!(sandbox.sh("cat /etc/motd")?, "still here");
    let whole = "busybox find / -xdev -type f | while read -r file; do cat \"$file\" > /dev/null || exit 1; done";
    sandbox.sh(whole)?;
    let gone = home.matchlock(["run", "--image", name, "--", "true"]).run()?.exits_with(1)?;
    assert!(gone.stderr().contains("cannot reach registry localhost:1"), "{gone}");
    Ok(())
}
