//! One spare: a saved guest is restored, gets warm, and is let go of.

use std::{fs::File, io, os::unix::net::UnixStream, sync::Arc, time::Instant};

use matchlock_model::SandboxSpec;
use matchlock_net::namespace::Unfurnished;
use matchlock_vmm::{Spare, upper::UpperError};
use matchlock_wire::{Exec, Request, RootDisks, Warm};
use thiserror::Error;

use super::ImageFile;
use crate::{
    Host,
    ask::{AskError, ask},
    bring_up::RESTORE_DEADLINE,
    exec::{self, Streams},
    launch::{LaunchError, machine, path_of, random},
    link::{Link, LinkError},
    network, prepared,
    start::{self, LOWER, UPPER},
    template::{self, NoTemplate, Ready},
    timeline::Timeline,
};

/// Programs that a spare with an image runs, and which most images have: the loader, the library and a shell are in memory then, and
/// the emulator has met their code.
const WARMING: [&[&str]; 2] = [&["true"], &["sh", "-c", ":"]];

/// What one without an image runs: our own program, which ends at once.
const BARE_WARMING: [&[&str]; 1] = [&["/init"]];

/// Why there is no spare.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MakeError {
    #[error(transparent)]
    Prepare(#[from] LaunchError),
    #[error(transparent)]
    Restore(#[from] NoTemplate),
    #[error(transparent)]
    Layer(#[from] UpperError),
    #[error(transparent)]
    Guest(#[from] AskError),
    #[error("make its disks")]
    Disks(#[source] io::Error),
    #[error("let go of it")]
    LetGo(#[source] io::Error),
}

/// A spare that waits to be taken.
#[derive(Debug)]
pub struct Waiting {
    pub(super) spare: Spare,
    /// Where its network interface leads.
    pub(super) namespace: Option<Unfurnished>,
    /// The template it was restored from.
    pub(super) template: String,
    pub(super) image: Option<ImageFile>,
}

/// Make a spare of this shape, with this image if there is one. Dropping the future ends its machine.
///
/// # Errors
/// [`MakeError`]; nothing is left then.
pub async fn make(host: &Host, shape: &SandboxSpec, image: Option<Arc<File>>) -> Result<Waiting, MakeError> {
    let files = host.prepare().await.map_err(LaunchError::from)?;
    // A machine that was just saved could be the first; but nobody could take it over.
    let mut template =
        template::ensure(host, &prepared::shape(&files, shape), &Timeline::new(Instant::now(), false)).await?;
    template.first = None;
    let template = Arc::new(template);
    let own = image.as_ref().map(|image| ImageFile::of(image)).transpose().map_err(MakeError::Disks)?;
    let (lower, layer) = tokio::task::spawn_blocking({
        let (host, template) = (host.clone(), Arc::clone(&template));
        move || disks(&host, &template, image)
    })
    .await
    .map_err(|interrupted| MakeError::Disks(interrupted.into()))??;
    let disks = start::disks(shape, path_of(&lower), path_of(&layer), Vec::new());
    let mut machine = machine(&files, shape, disks);
    let mut namespace = None;
    if let Some(nic) = &mut machine.nic {
        let (connected, own) = network::lay().await.map_err(NoTemplate::from)?;
        (*nic, namespace) = (connected, Some(own));
    }
    let vmm = files.vmm.clone().kept_by("/proc/self/exe".into());
    let get_warm = async |_, stream: UnixStream| {
        let link = Link::to_restored(tokio::net::UnixStream::from_std(stream)?);
        match get_warm(&link, own.is_some()).await {
            Err(AskError::Link(broken)) => Err(broken),
            warmed => Ok((link, warmed)),
        }
    };
    let (running, (link, warmed)) = template.restore(&vmm, &machine, RESTORE_DEADLINE, get_warm).await?;
    warmed?;
    let control = link.release().await.map_err(AskError::from)?;
    let spare = running.into_spare(control).map_err(MakeError::LetGo)?;
    Ok(Waiting { spare, namespace, template: template.key().to_owned(), image: own })
}

/// Image and writable layer. They need no names, for they go with the machine.
fn disks(host: &Host, template: &Ready, image: Option<Arc<File>>) -> Result<(Arc<File>, File), MakeError> {
    let layer = tempfile::tempfile_in(host.state.root()).map_err(MakeError::Disks)?;
    template.fill_layer(&layer)?;
    let lower = match image {
        Some(image) => image,
        None => Arc::new(template::stand_in_image(&host.cache)?),
    };
    Ok((lower, layer))
}

async fn get_warm(link: &Link, image: bool) -> Result<(), AskError> {
    let entropy = random().map_err(|_| LinkError::Closed)?;
    let warm = Warm { entropy, root: RootDisks { lower: LOWER, upper: UPPER }, image };
    ask(link, Request::Warm(warm)).await?;
    for words in if image { &WARMING[..] } else { &BARE_WARMING } {
        let argv = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        // That an image has no such program makes a spare that is less warm.
        if let Err(exec::ExecError::Link(broken)) =
            exec::run(link, Exec { argv, ..Exec::default() }, Streams::default()).await
        {
            return Err(broken.into());
        }
    }
    Ok(())
}
