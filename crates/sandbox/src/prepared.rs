//! What a start needs that takes long and belongs to no sandbox: a kernel to fetch, a disk to format, a guest to boot and
//! save. It depends on the sandbox's shape alone, so it can be had while the image is still on its way.
//!
//! Called by the verbs that start sandboxes, and by those that only make sure that the next start is a quick one.

use std::{path::PathBuf, time::Instant};

use matchlock_model::SandboxSpec;
use matchlock_vmm::upper;
use thiserror::Error;

use crate::{
    Host,
    host::{GuestFiles, PrepareError},
    launch::{LaunchError, machine},
    start,
    template::{self, NoTemplate, Ready, Shape},
    timeline::Timeline,
};

/// What sandboxes of one shape start from.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) files: GuestFiles,
    /// `None` where none is wanted.
    pub(crate) template: Option<Result<Ready, NoTemplate>>,
}

/// Why there is no new template.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RemakeError {
    #[error(transparent)]
    Prepare(#[from] LaunchError),
    #[error(transparent)]
    Make(#[from] NoTemplate),
}

impl Prepared {
    /// The name of the template that the next sandbox continues, if one is wanted.
    ///
    /// # Errors
    /// [`NoTemplate`]: it will be booted.
    #[must_use]
    pub fn template(&self) -> Option<Result<&str, &NoTemplate>> {
        self.template.as_ref().map(|template| template.as_ref().map(Ready::key))
    }
}

impl Host {
    /// Find what sandboxes like `spec` start from, and make what is missing; with `cold` no template. Dropping the future
    /// ends a guest that is about to be saved.
    ///
    /// # Errors
    /// [`LaunchError`]. That there is no template is none.
    pub async fn prepare_for(
        &self,
        spec: &SandboxSpec,
        cold: bool,
        timeline: &Timeline,
    ) -> Result<Prepared, LaunchError> {
        let files = self.prepare().await?;
        let (uppers, size_mb) = (self.cache.uppers(), u64::from(spec.resources.disk_size_mb));
        let made = tokio::task::spawn_blocking(move || upper::original(&uppers, size_mb).map(drop));
        made.await.map_err(PrepareError::from)??;
        timeline.mark("host files found");
        let template = if cold { None } else { Some(template::ensure(self, &shape(&files, spec), timeline).await) };
        timeline.mark("template found");
        Ok(Prepared { files, template })
    }

    /// Make the template that sandboxes like `spec` continue, whether there is one or not; its name.
    ///
    /// # Errors
    /// [`RemakeError`].
    pub async fn remake_template(&self, spec: &SandboxSpec) -> Result<String, RemakeError> {
        let files = self.prepare().await.map_err(LaunchError::from)?;
        template::forget(&self.cache, &shape(&files, spec))?;
        let prepared = self.prepare_for(spec, false, &Timeline::new(Instant::now(), false)).await?;
        let template = prepared.template.transpose()?;
        Ok(template.map(|ready| ready.key().to_owned()).unwrap_or_default())
    }
}

/// The shape of sandboxes like `spec`.
pub(crate) fn shape<'a>(files: &'a GuestFiles, spec: &SandboxSpec) -> Shape<'a> {
    // Which files its disks are does not matter to a template.
    let disks = start::disks(spec, PathBuf::new(), PathBuf::new(), vec![PathBuf::new(); spec.extra_disks.len()]);
    Shape {
        vmm: &files.vmm,
        machine: machine(files, spec, disks),
        layer_mb: spec.resources.disk_size_mb.into(),
        privileged: spec.privileged,
    }
}
