//! The template that a sandbox continues: found, or made now on files that stand in for its disks.
//!
//! Called by `launch` and before the first one by whoever pulls an image. Invariant: nothing of a user is near a guest that
//! is saved. Its image holds this program's own guest binary and nothing else, its other disks are empty.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use matchlock_image::{ConvertError, Converter, Limits};
use matchlock_vmm::{
    Accelerator, Fallback, GUEST, Machine, RestoreError, Running, SaveError, Template, TemplateError, Templates, Vmm,
    kvm,
    qemu::{Qemu, QemuError},
    restore, save,
    upper::{self, UpperError},
};
use matchlock_wire::{REHEARSAL, Request, RootDisks};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    Host,
    ask::{AskError, ask},
    link::{Link, LinkError},
    start::{LOWER, UPPER},
};

/// The size that a guest is told of each disk while it is saved. The real ones are smaller, which it never notices: file
/// systems go by what they say of themselves.
const STAND_IN_SIZE: u64 = 1 << 40;

/// The smallest writable layer there is will do for a rehearsal.
const STAND_IN_UPPER_MB: u64 = 64;

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
    #[error("disk {} is larger than a saved guest can be given", .0.display())]
    LargeDisk(PathBuf),
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
    template: Template,
    accelerator: Accelerator,
    /// Why that is not KVM, where it might have been.
    pub(crate) fallback: Option<Fallback>,
}

/// The template for machines like `machine`, made if there is none that can be used.
pub(crate) async fn ensure(host: &Host, vmm: &Qemu, machine: &Machine) -> Result<Ready, NoTemplate> {
    let fallback = match kvm() {
        Ok(()) => match ensure_for(host, vmm, machine, Accelerator::Kvm).await {
            Ok(template) => return Ok(Ready { template, accelerator: Accelerator::Kvm, fallback: None }),
            Err(error) => Fallback::Ended(matchlock_model::one_line(&error)),
        },
        Err(reason) => reason,
    };
    let template = ensure_for(host, vmm, machine, Accelerator::Tcg).await?;
    Ok(Ready { template, accelerator: Accelerator::Tcg, fallback: Some(fallback) })
}

async fn ensure_for(
    host: &Host,
    vmm: &Qemu,
    machine: &Machine,
    accelerator: Accelerator,
) -> Result<Template, NoTemplate> {
    let templates = Templates::new(host.cache.templates());
    let recipe = vmm.recipe(machine, accelerator).map_err(NoTemplate::Recipe)?;
    match templates.find(&recipe, vmm.tsc_khz()) {
        Ok(template) => return Ok(template),
        Err(TemplateError::Missing) => {}
        Err(reason) => tracing::warn!("{reason}: it is made again"),
    }
    let stand_ins = StandIns::new(host, machine)?;
    save(vmm, &templates, (&recipe, accelerator), &stand_ins.machine, park).await?;
    Ok(templates.find(&recipe, vmm.tsc_khz())?)
}

impl Ready {
    /// Continue the saved guest as `machine`, with `ready` to find out whether it does.
    pub(crate) async fn restore<T, F>(
        &self,
        vmm: &Qemu,
        machine: &Machine,
        ready: impl FnOnce(Link) -> F,
    ) -> Result<(Running, T), NoTemplate>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        if let Some(disk) = machine.disks.iter().find(|disk| is_too_large(&disk.file)) {
            return Err(NoTemplate::LargeDisk(disk.file.clone()));
        }
        let ready = async |stream| ready(Link::to_restored(UnixStream::from_std(stream)?)).await;
        Ok(restore(vmm, machine, self.accelerator, &self.template, ready).await?)
    }
}

fn is_too_large(disk: &Path) -> bool {
    disk.metadata().is_ok_and(|meta| meta.len() > STAND_IN_SIZE)
}

/// Have a guest that has just booted rehearse; its link has to stay open until it is saved.
async fn park(stream: std::os::unix::net::UnixStream) -> Result<Link, AskError> {
    let link = Link::to_guest(UnixStream::from_std(stream).map_err(LinkError::from)?).await?;
    ask(&link, Request::Park(RootDisks { lower: LOWER, upper: UPPER })).await?;
    Ok(link)
}

/// A machine with other disks, and their files, which have no names.
struct StandIns {
    machine: Machine,
    _files: Vec<File>,
}

impl StandIns {
    fn new(host: &Host, machine: &Machine) -> Result<Self, NoTemplate> {
        let mut machine = Machine { console_log: None, ..machine.clone() };
        let mut files = Vec::new();
        for (number, disk) in (0..).zip(&mut machine.disks) {
            let file = tempfile::tempfile_in(host.cache.root()).map_err(NoTemplate::StandIn)?;
            match number {
                LOWER => image(&file)?,
                UPPER => upper::fill(&host.cache.uppers(), STAND_IN_UPPER_MB, &file)?,
                _ => {}
            }
            file.set_len(STAND_IN_SIZE).map_err(NoTemplate::StandIn)?;
            disk.file = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            files.push(file);
        }
        Ok(Self { machine, _files: files })
    }
}

/// An image whose one program ends at once, and the folders of any image.
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
