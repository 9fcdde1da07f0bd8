//! `matchlock run`: make a sandbox, run a command in it, leave nothing.
//!
//! This process is the sandbox's supervisor: while it lives the sandbox does, and nothing else has to run.

use std::{cell::Cell, ffi::OsString, time::Duration};

use matchlock_model::{ExitStatus, ExtraDisk, ImageConfig, Resources, SandboxId, SandboxSpec, compose_command};
use matchlock_sandbox::{Keep, Launch, Sandbox, Timeline, exec::ExecError};
use tokio::sync::{Notify, oneshot};

use super::{
    detach::{self, Announcement},
    ending::{self, EarlyEnd, while_serving},
    handover::Handover,
    image,
    network::{Connected, NetworkArgs},
    process::{self, ProcessArgs},
    shape::ShapeArgs,
    watching::Watching,
};
use crate::{
    env::Environment,
    error::CliError,
    output,
    parse::{self, Toggle as _},
    stdio::{Connection, Mode},
};

/// Flags of `run`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that people type")]
#[derive(Debug, clap::Args)]
#[command(override_usage = "matchlock run --image <IMAGE> [OPTIONS] [--] [COMMAND]...")]
pub(crate) struct Args {
    /// Image reference or local tag
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Ask the registry even if the image is here
    #[arg(long, toggle = false)]
    pull: bool,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Mount an ext4 image, or @NAME for a volume, in the guest
    #[arg(long, value_name = "HOST_PATH:GUEST_MOUNT[:ro]")]
    disk: Vec<OsString>,
    /// Replace the image's entrypoint; empty to clear it
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Say on stderr when the start had reached what
    #[arg(long, toggle = false)]
    timings: bool,
    /// Boot the guest instead of continuing a saved one
    #[arg(long, toggle = false)]
    cold: bool,
    /// End the sandbox after this many seconds, image and boot included; 0 for never
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = parse::whole::<u64>("seconds"), value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: u64,
    /// How long the guest's processes get between SIGTERM and SIGKILL at the end, such as 500ms or 5s
    #[arg(long, default_value = "0s", value_parser = parse::duration, value_name = "DURATION")]
    graceful_shutdown: Duration,
    /// Remove the sandbox after the command; --rm=false keeps it running for exec, and its record and log afterwards
    #[arg(long, toggle = true)]
    rm: bool,
    /// Print the sandbox's id when it is ready and leave it running; implies --rm=false
    #[arg(short, long, toggle = false)]
    detach: bool,
    #[command(flatten)]
    network: NetworkArgs,
    /// Allow everything public, and say at the end which --allow-host would have been enough
    #[arg(long, toggle = false)]
    learn: bool,
    /// The command and its arguments (default: the image's); -- goes before a command with flags of its own
    command: Vec<OsString>,
}

/// What was typed, validated; what the image decides is still open.
struct Plan {
    args: Args,
    mode: Mode,
    resources: Resources,
    connected: Connected,
    variables: Vec<(String, String)>,
    disks: Vec<ExtraDisk>,
    began: std::time::Instant,
    /// Set once nothing runs in the foreground of a kept sandbox: what its command ended with.
    idle: Cell<Option<ExitStatus>>,
    /// Told when all that the command has said is passed on, although the work is not over: the sandbox's end is awaited.
    quiet: Notify,
}

pub(crate) async fn run(args: Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let announcement = Announcement::from_environment(environment)?;
    let handed_over = Handover::from_environment(environment)?;
    let plan = Plan::new(args, environment, handed_over)?;
    if plan.args.detach && announcement.is_none() {
        let Connected { network, values, .. } = plan.connected;
        return detach::supervise_in_background(environment, &Handover { secrets: network.secrets, values }).await;
    }
    Connection::check(plan.mode)?;
    let early = EarlyEnd::new(plan.args.timeout)?;
    Box::pin(plan.supervise(environment, announcement, early)).await
}

impl Plan {
    /// Everything that can be refused without looking at the image is refused here, before anything is touched.
    fn new(args: Args, environment: &Environment, handed_over: Option<Handover>) -> Result<Self, CliError> {
        if args.detach && (args.process.tty || args.process.interactive) {
            return Err(CliError::failure("--detach cannot be combined with -t/--tty or -i/--interactive"));
        }
        let resources = args.shape.resources(args.timeout, args.graceful_shutdown)?;
        let cache = environment.host()?.cache;
        if args.detach && args.learn {
            return Err(CliError::failure("--learn cannot be combined with --detach: nobody would see what it says"));
        }
        let connected = args.network.connect(handed_over, args.learn)?;
        let variables = args.process.environment()?;
        if let Some((name, _)) = variables.iter().find(|(name, _)| connected.network.secrets.contains_key(name)) {
            return Err(CliError::failure(format!("-e {name} would give the guest what --secret keeps from it")));
        }
        Ok(Self {
            mode: args.process.mode(),
            resources,
            connected,
            variables,
            disks: args.disk.iter().map(|spec| parse::extra_disk(spec, &cache)).collect::<Result<_, _>>()?,
            began: std::time::Instant::now(),
            idle: Cell::new(None),
            quiet: Notify::new(),
            args,
        })
    }

    const fn keep(&self) -> Keep {
        if self.args.rm && !self.args.detach { Keep::Nothing } else { Keep::Record }
    }

    /// The specification, now that the image has told its part.
    fn spec(&self, mut config: ImageConfig) -> SandboxSpec {
        let ProcessArgs { user, workdir, .. } = &self.args.process;
        if !user.is_empty() {
            config.user.clone_from(user);
        }
        if !workdir.is_empty() {
            config.working_dir.clone_from(workdir);
        }
        SandboxSpec {
            // The launch replaces it by one that is free.
            id: SandboxId::from_random([0; 4]),
            image: self.args.image.clone(),
            privileged: self.args.shape.privileged,
            resources: self.resources.clone(),
            network: self.connected.network.clone(),
            env: self.variables.iter().cloned().collect(),
            extra_disks: self.disks.clone(),
            image_config: config,
        }
    }

    /// The sandbox's life: image, launch, command, and in every case its end.
    async fn supervise(
        self,
        environment: &Environment,
        mut announcement: Option<Announcement>,
        mut early: EarlyEnd,
    ) -> Result<ExitStatus, CliError> {
        let host = environment.host()?;
        let timeline = Timeline::new(self.began, self.args.timings);
        // In a terminal that is the program's own, a line of ours would be among what it shows.
        let watching = Watching::new(self.mode != Mode::Terminal && announcement.is_none(), self.args.learn);
        timeline.mark("arguments read");
        let prepared = async {
            // Neither waits for the other: converting an image takes time, and so does making a template.
            let (image, prepared) = tokio::try_join!(
                async {
                    let image = image::resolve(&self.args.image, self.args.pull, environment).await?;
                    timeline.mark("image found");
                    Ok(image)
                },
                async {
                    let shape = self.spec(ImageConfig::default());
                    let prepared = host.prepare_for(&shape, self.args.cold, &timeline).await;
                    prepared.map_err(CliError::during("start sandbox"))
                }
            )?;
            let command = compose_command(&image.config, self.args.entrypoint.as_deref(), &self.args.command);
            if command.is_empty() && self.keep() == Keep::Nothing {
                return Err(CliError::failure("command required (or use --rm=false to start without a command)"));
            }
            let spec = self.spec(image.config.clone());
            let egress = self.connected.egress.clone();
            let launch = Launch {
                spec,
                image: image.rootfs.file,
                keep: self.keep(),
                prepared,
                egress,
                listener: watching.listener(),
            };
            let sandbox = Sandbox::launch(&host, launch, &timeline).await.map_err(CliError::during("start sandbox"))?;
            Ok((sandbox, command))
        };
        let (mut sandbox, command) = tokio::select! {
            prepared = prepared => prepared?,
            // Whatever the launch had taken is given back when it is dropped.
            status = early.next() => return Ok(self.explain(status)),
        };
        for notice in sandbox.notices() {
            output::note(notice);
        }
        let grace = self.args.graceful_shutdown;
        let (worked, orderly) = {
            let timeline = &timeline;
            let work = Work { plan: &self, sandbox: &sandbox, announcement: &mut announcement, environment, timeline };
            let work = work.carry_out(command);
            tokio::pin!(work);
            let shut_down = sandbox.shut_down(grace);
            tokio::select! {
                status = &mut work => (status, early.unless_impatient(shut_down).await),
                // The command has its time, and what it says in it is passed on.
                status = early.next() => {
                    let ending = early.unless_impatient(shut_down);
                    (Ok(self.explain(status)), while_serving(ending, self.until_quiet(work)).await)
                }
                reason = sandbox.ended() => {
                    ending::last_output(self.until_quiet(work)).await;
                    (Err(CliError::failure(format!("sandbox ended: {reason}"))), Ok(()))
                }
            }
        };
        timeline.mark("machine ended");
        if announcement.is_some() {
            // Nobody has been told of it.
            sandbox.keep(Keep::Nothing);
        }
        let closed = sandbox.leave().await.map_err(|error| (ExitStatus::Failure, error));
        timeline.mark("sandbox closed");
        watching.finish().await;
        if self.args.timings {
            output::note(timeline.table().trim_end_matches('\n'));
        }
        let mut of_end = ExitStatus::SUCCESS;
        for (status, error) in [orderly, closed].into_iter().filter_map(Result::err) {
            output::error(&CliError::during("close sandbox")(error));
            of_end = if of_end == ExitStatus::SUCCESS { status } else { of_end };
        }
        // The command's own status tells more than a failed clean-up, which gc repeats.
        match worked {
            Ok(ExitStatus::SUCCESS) => Ok(of_end),
            worked => worked,
        }
    }

    /// Go on with `work` until it has nothing more to say.
    async fn until_quiet(&self, work: impl Future) {
        tokio::select! {
            _ = work => {}
            () = self.quiet.notified() => {}
        }
    }

    /// What it means that the sandbox was ended before its command had. An idle one was only waiting for that.
    fn explain(&self, status: ExitStatus) -> ExitStatus {
        match (status, self.idle.get()) {
            (ExitStatus::Interrupted(_), Some(of_command)) => return of_command,
            (ExitStatus::TimedOut, _) => output::note(&format!("timeout of {} seconds reached", self.args.timeout)),
            _ => {}
        }
        status
    }
}

/// What a sandbox is there for.
struct Work<'a> {
    plan: &'a Plan,
    sandbox: &'a Sandbox,
    /// Where somebody waits to be told that it is ready, and has not been told yet.
    announcement: &'a mut Option<Announcement>,
    environment: &'a Environment,
    timeline: &'a Timeline,
}

impl Work<'_> {
    /// Run the command, if there is one; a kept sandbox then stays until it is ended.
    async fn carry_out(mut self, command: Vec<OsString>) -> Result<ExitStatus, CliError> {
        let keeps = self.plan.keep() == Keep::Record;
        if keeps && self.announcement.is_none() {
            let id = self.sandbox.id();
            output::note(&format!(
                "Sandbox {id} is running\n  Connect: matchlock exec {id} -it bash\n  Stop:    matchlock kill {id}"
            ));
        }
        if command.is_empty() {
            announce(self.announcement, self.sandbox.id())?;
            self.plan.idle.set(Some(ExitStatus::SUCCESS));
        } else {
            let status = self.run(command).await?;
            if !keeps {
                return Ok(status);
            }
            tracing::info!("the command ended with status {}; the sandbox stays", status.code());
            // Nobody may be watching.
            let word = format!("[matchlock] the command ended with status {}\n", status.code());
            self.sandbox.log().append(word.as_bytes());
            self.plan.idle.set(Some(status));
        }
        // Ended by `kill`, a signal or the deadline: see `supervise`.
        self.plan.quiet.notify_one();
        std::future::pending().await
    }

    async fn run(&mut self, command: Vec<OsString>) -> Result<ExitStatus, CliError> {
        let Self { plan, sandbox, announcement, environment, timeline } = self;
        let connection = match announcement {
            Some(_) => Connection::detached(),
            None => Connection::open(plan.mode)?,
        };
        let request = process::request(command, plan.variables.clone(), &connection, environment);
        let mut streams = connection.streams;
        if plan.mode != Mode::Terminal {
            streams.output = streams.output.map(|taker| sandbox.log().copy_of(taker));
            streams.error = streams.error.map(|taker| sandbox.log().copy_of(taker));
        }
        let (started, has_started) = oneshot::channel();
        streams.started = Some(started);
        let program = sandbox.exec(request, streams);
        let announced = async {
            // An error here means that the program did not start; `program` says why.
            if has_started.await.is_ok() {
                timeline.mark("program started");
                announce(announcement, sandbox.id())?;
            }
            std::future::pending::<Result<ExitStatus, CliError>>().await
        };
        tokio::select! {
            status = program => match status {
                // `supervise` learns why, and says it.
                Err(ExecError::Link(_)) => {
                    plan.quiet.notify_one();
                    std::future::pending().await
                }
                status => {
                    timeline.mark("program ended");
                    Ok(status?)
                }
            },
            error = announced => error,
        }
    }
}

/// Say that the sandbox is ready, where somebody waits to be told. Until that has worked, it stays to be said.
fn announce(announcement: &mut Option<Announcement>, id: &SandboxId) -> Result<(), CliError> {
    if let Some(ready) = announcement {
        ready.make(id.as_str())?;
    }
    *announcement = None;
    Ok(())
}
