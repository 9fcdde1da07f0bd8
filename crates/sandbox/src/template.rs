//! The template that a sandbox continues: found, or made now on files that stand in for its disks.
//!
//! Called by `prepared`, for a start and by whoever pulls an image. Invariant: nothing of a user is near a guest that
//! is saved. Its image holds this program's own guest binary and nothing else, its other disks are empty.

use std::{
    fs::{DirBuilder, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::DirBuilderExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use matchlock_image::{ConvertError, Converter, Limits, is_exchangeable};
use matchlock_model::{CacheLayout, one_line};
use matchlock_net::namespace::{self, Addressing, Unfurnished};
use matchlock_vmm::{
    Accelerator, Fallback, GUEST, Machine, Recipe, RestoreError, Running, SaveError, Saved, Template, TemplateError,
    Templates, Vmm,
    qemu::{Qemu, QemuError},
    restore, save,
    upper::{self, UpperError},
};
use matchlock_wire::{NetworkLink, Park, REHEARSAL, Request, RootDisks};
use thiserror::Error;

use crate::{
    Host,
    ask::{AskError, ask},
    link::{Link, LinkError},
    network,
    start::{LOWER, UPPER},
    timeline::Timeline,
};

/// The size that a guest is told of each disk while it is saved. The real ones are smaller, which it never notices: file
/// systems go by what they say of themselves.
const STAND_IN_SIZE: u64 = 1 << 40;

/// Why a sandbox cannot begin as a copy of a saved guest.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NoTemplate {
    #[error("look at the machine's files")]
    Recipe(#[source] io::Error),
    #[error("make stand-ins for the disks")]
    StandIn(#[source] io::Error),
    #[error("make a stand-in for the image")]
    Image(#[from] ConvertError),
    #[error("make a stand-in for the writable layer")]
    Upper(#[from] UpperError),
    #[error("read the image")]
    ReadImage(#[source] io::Error),
    #[error("the image's root folder holds more than a saved guest expects")]
    UnusualImage,
    #[error("disk {} is larger than a saved guest can be given", .0.display())]
    LargeDisk(PathBuf),
    #[error(transparent)]
    Network(#[from] namespace::Error),
    #[error(transparent)]
    Save(#[from] SaveError<QemuError, AskError>),
    #[error(transparent)]
    Find(#[from] TemplateError),
    #[error(transparent)]
    Restore(#[from] RestoreError<QemuError, LinkError>),
}

/// A template for machines of one shape, and how to run them.
#[derive(Debug)]
pub(crate) struct Ready {
    templates: Templates,
    key: String,
    template: Template,
    accelerator: Accelerator,
    /// Why that is not KVM, where it might have been.
    pub(crate) fallback: Option<Fallback>,
    /// The machine that was saved, if it was just now.
    pub(crate) first: Option<First>,
}

/// A machine that was just saved: it can go on as the first of all.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) saved: Saved,
    /// The link to its guest.
    pub(crate) link: Link,
    /// Where its network interface leads.
    pub(crate) namespace: Option<Unfurnished>,
}

/// What sandboxes that share a template have in common.
pub(crate) struct Shape<'a> {
    pub(crate) vmm: &'a Qemu,
    /// Which files its disks are does not matter.
    pub(crate) machine: Machine,
    /// Size of the writable layer in MiB.
    pub(crate) layer_mb: u64,
    /// Commands keep all rights.
    pub(crate) privileged: bool,
}

impl Shape<'_> {
    fn recipe(&self, accelerator: Accelerator) -> io::Result<Recipe> {
        let rights = if self.privileged { "privileged" } else { "confined" };
        let parked = format!("writable layer of {} MiB, {rights}", self.layer_mb);
        self.vmm.recipe(&self.machine, accelerator, parked)
    }
}

/// The template for sandboxes of this shape, made if there is none that can be used.
pub(crate) async fn ensure(host: &Host, shape: &Shape<'_>, timeline: &Timeline) -> Result<Ready, NoTemplate> {
    let (fallback, tried) = match shape.vmm.kvm(&shape.machine) {
        Ok(()) => match ensure_for(host, shape, Accelerator::Kvm, timeline).await {
            Ok(ready) => return Ok(ready),
            // What the accelerator has no part in, such as a disk that is full, another would meet as well.
            Err(NoTemplate::Save(error)) if !matches!(error, SaveError::Write(_)) => {
                (Fallback::Ended(one_line(&error)), true)
            }
            Err(error) => return Err(error),
        },
        Err(reason) => (reason, false),
    };
    let ready = ensure_for(host, shape, Accelerator::Tcg, timeline).await?;
    if tried {
        shape.vmm.give_up_kvm(&shape.machine, &fallback);
    }
    Ok(Ready { fallback: Some(fallback), ..ready })
}

/// Remove the template for sandboxes of this shape, whatever runs them.
pub(crate) fn forget(cache: &CacheLayout, shape: &Shape<'_>) -> Result<(), NoTemplate> {
    let templates = Templates::new(cache.templates());
    for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
        let recipe = shape.recipe(accelerator).map_err(NoTemplate::Recipe)?;
        templates.remove(&recipe.key()).map_err(|e| TemplateError::Io(cache.templates(), e))?;
    }
    Ok(())
}

async fn ensure_for(
    host: &Host,
    shape: &Shape<'_>,
    accelerator: Accelerator,
    timeline: &Timeline,
) -> Result<Ready, NoTemplate> {
    let (vmm, machine) = (shape.vmm, &shape.machine);
    let (layer_mb, privileged) = (shape.layer_mb, shape.privileged);
    let templates = host.templates();
    let recipe = shape.recipe(accelerator).map_err(NoTemplate::Recipe)?;
    let find = || {
        let (templates, recipe, tsc_khz) = (templates.clone(), recipe.clone(), vmm.tsc_khz());
        blocking(move || Ok(templates.find(&recipe, tsc_khz)))
    };
    let ready = |template, first| {
        let (key, templates) = (recipe.key(), templates.clone());
        Ready { template, accelerator, key, templates, fallback: None, first }
    };
    match find().await? {
        Ok(template) => return Ok(ready(template, None)),
        Err(TemplateError::Missing) => {}
        Err(reason) => tracing::warn!("{reason}: it is made again"),
    }
    let begun = blocking({
        let (templates, recipe, tsc_khz) = (templates.clone(), recipe.clone(), vmm.tsc_khz());
        let (host, machine) = (host.clone(), machine.clone());
        move || {
            let Some(unfinished) = templates.begin(&recipe, tsc_khz)? else { return Ok(None) };
            let stand_ins = StandIns::new(&host, &machine, layer_mb)?;
            Ok(Some((unfinished, stand_ins)))
        }
    });
    let mut first = None;
    if let Some((unfinished, StandIns { mut machine, layer, .. })) = begun.await? {
        timeline.mark("stand-ins for the disks made");
        let mut namespace = None;
        if let Some(nic) = &mut machine.nic {
            let (connected, own) = network::lay().await?;
            (*nic, namespace) = (connected, Some(own));
        }
        let network = machine.nic.is_some().then(|| network::guests_end(&Addressing::default()));
        let park = async |_, stream| park(stream, privileged, network.clone(), timeline).await;
        let layer = (layer, layer_mb * 1024 * 1024);
        let (saved, link) = save(vmm, unfinished, (&machine, accelerator), layer, park).await?;
        first = Some(First { saved, link, namespace });
        timeline.mark("guest saved");
    }
    Ok(ready(find().await??, first))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NoTemplate> + Send + 'static,
) -> Result<T, NoTemplate> {
    tokio::task::spawn_blocking(work).await.map_err(|interrupted| NoTemplate::StandIn(interrupted.into()))?
}

impl Ready {
    /// The template's name.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Make the writable layer with which its guest goes on.
    pub(crate) fn copy_layer(&self, path: &Path) -> Result<(), UpperError> {
        upper::copy(&self.template.layer, path)
    }

    /// The same in `layer`, which is empty.
    pub(crate) fn fill_layer(&self, layer: &File) -> Result<(), UpperError> {
        upper::copy_to(&self.template.layer, layer)
    }

    /// Continue the saved guest as `machine`, with `ready` to find out whether it does.
    pub(crate) async fn restore<T>(
        &self,
        vmm: &Qemu,
        machine: &Machine,
        deadline: Duration,
        ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, LinkError>,
    ) -> Result<(Running, T), NoTemplate> {
        fits(machine)?;
        let restored = restore(vmm, machine, (&self.template, self.accelerator), deadline, ready).await;
        if let Err(reason) = &restored
            && let Err(error) = self.templates.remove(&self.key)
        {
            tracing::warn!("{}; the template {} stays: {error}", one_line(reason), self.key);
        }
        Ok(restored?)
    }
}

/// Can a guest that was saved be given this machine's disks?
pub(crate) fn fits(machine: &Machine) -> Result<(), NoTemplate> {
    let image = File::open(&machine.disks[LOWER as usize].file).and_then(|image| is_exchangeable(&image));
    if !image.map_err(NoTemplate::ReadImage)? {
        return Err(NoTemplate::UnusualImage);
    }
    if let Some(disk) = machine.disks.iter().find(|disk| is_too_large(&disk.file)) {
        return Err(NoTemplate::LargeDisk(disk.name.clone()));
    }
    Ok(())
}

fn is_too_large(disk: &Path) -> bool {
    disk.metadata().is_ok_and(|meta| meta.len() > STAND_IN_SIZE)
}

/// Have a guest that has just booted rehearse; its link has to stay open until it is saved.
async fn park(
    stream: UnixStream,
    privileged: bool,
    network: Option<NetworkLink>,
    timeline: &Timeline,
) -> Result<Link, AskError> {
    let link = Link::to_guest(tokio::net::UnixStream::from_std(stream).map_err(LinkError::from)?).await?;
    timeline.mark("guest to be saved booted");
    let root = RootDisks { lower: LOWER, upper: UPPER };
    ask(&link, Request::Park(Park { root, privileged, network })).await?;
    timeline.mark("guest parked");
    Ok(link)
}

/// A machine with other disks, and their files, which have no names.
struct StandIns {
    machine: Machine,
    layer: File,
    _others: Vec<File>,
}

impl StandIns {
    fn new(host: &Host, machine: &Machine, layer_mb: u64) -> Result<Self, NoTemplate> {
        let mut machine = Machine { console_log: None, ..machine.clone() };
        let mut files = Vec::new();
        DirBuilder::new().recursive(true).mode(0o700).create(host.state.root()).map_err(NoTemplate::StandIn)?;
        for (number, disk) in (0..).zip(&mut machine.disks) {
            // The layer becomes a sandbox's if the machine goes on as one: then it lies where those of others do.
            let folder = if number == UPPER { host.state.root() } else { host.cache.root() };
            let file = tempfile::tempfile_in(folder).map_err(NoTemplate::StandIn)?;
            match number {
                LOWER => image(&file)?,
                UPPER => upper::fill(&host.cache.uppers(), layer_mb, &file)?,
                _ => {}
            }
            file.set_len(STAND_IN_SIZE).map_err(NoTemplate::StandIn)?;
            disk.file = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            files.push(file);
        }
        let layer = files.swap_remove(UPPER as usize);
        Ok(Self { machine, layer, _others: files })
    }
}

/// A file without a name that holds the image which a guest has while it is saved.
pub(crate) fn stand_in_image(cache: &CacheLayout) -> Result<File, NoTemplate> {
    let file = tempfile::tempfile_in(cache.root()).map_err(NoTemplate::StandIn)?;
    image(&file)?;
    Ok(file)
}

/// An image whose one program ends at once, and the folders that a guest mounts on.
fn image(file: &File) -> Result<(), NoTemplate> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(GUEST.len() as u64);
    layer.append_data(&mut header, REHEARSAL.trim_start_matches('/'), GUEST).map_err(NoTemplate::StandIn)?;
    for folder in ["etc", "proc", "sys", "dev", "tmp", "run"] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, folder, io::empty()).map_err(NoTemplate::StandIn)?;
    }
    let layer = layer.into_inner().map_err(NoTemplate::StandIn)?;
    let mut converter = Converter::create(file.try_clone().map_err(NoTemplate::StandIn)?, Limits::default())?;
    converter.apply_layer(&layer[..])?;
    converter.finish()?;
    Ok(())
}
