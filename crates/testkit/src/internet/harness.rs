//! The main function of a test whose process moves to the internet before it has threads.

use std::{
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};

use super::Internet;
use crate::namespace;

/// A story, and its name.
pub struct Story {
    name: String,
    tell: Box<Tell>,
}

type Tell = dyn Fn(&Internet) -> Result<()> + Send;

impl Story {
    /// What happens in it fails if it goes another way.
    pub fn new(name: impl Into<String>, tell: impl Fn(&Internet) -> Result<()> + Send + 'static) -> Self {
        Self { name: name.into(), tell: Box::new(tell) }
    }
}

/// Says to this program that what it needs of the real world is there.
const PREPARED: &str = "MATCHLOCK_TEST_PREPARED";

/// Tell the stories one after the other, each with the same internet, for what has arrived there is to be its own doing.
/// `prepare` does before, in the real world, what needs the real network.
#[must_use]
#[expect(clippy::print_stdout, reason = "the test runner shows it")]
pub fn tell(prepare: impl FnOnce() -> Result<()>, stories: Vec<Story>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let told = || {
        if std::env::var_os(PREPARED).is_none() && !arguments.list {
            prepare().context("prepare")?;
            let again = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).env(PREPARED, "1").status()?;
            return Ok(ExitCode::from(u8::try_from(again.code().unwrap_or(1)).unwrap_or(1)));
        }
        let internet = if arguments.list { None } else { Some(Arc::new(start()?)) };
        let trial = |Story { name, tell }: Story| {
            let internet = internet.clone();
            Trial::test(name, move || {
                let internet = internet.context("started, unless stories are only listed")?;
                let _before = internet.arrived();
                tell(&internet).map_err(|error| format!("{error:#}").into())
            })
        };
        arguments.test_threads = Some(1);
        Ok(libtest_mimic::run(&arguments, stories.into_iter().map(trial).collect()).exit_code())
    };
    told().unwrap_or_else(|error: anyhow::Error| {
        println!("{error:?}");
        ExitCode::FAILURE
    })
}

fn start() -> Result<Internet> {
    namespace::enter()?;
    Internet::start()
}
