//! What keeps spares: makes them one after the other, gives each to whoever asks first, and replaces it.
//!
//! Called by `matchlock warm`, which ends when this does. Invariant: whoever has just taken one has the processors for itself for a
//! moment: its replacement is begun when that sandbox has ended, or after [`HEAD_START`].

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use matchlock_model::StateLayout;
use matchlock_vmm::Exit;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Waiting, Wish,
    message::{Answer, Ask, receive, send},
};
use crate::socket;

/// How long a sandbox is left alone before another spare is made at its side.
const HEAD_START: Duration = Duration::from_secs(2);

/// When to try again to make a spare after one could not be made: what is missing, such as room on a disk, comes back by itself or never.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a spare may take to be gone.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// How long somebody who has taken a connection may take to ask.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// A process's spares.
#[derive(Debug)]
pub struct Pool {
    wish: Wish,
    path: PathBuf,
    listener: UnixListener,
    spares: Vec<Waiting>,
    /// Those that were taken and whose sandboxes are left alone still.
    lent: u32,
    /// No spare is made before then.
    paused_until: Option<Instant>,
    /// When one ended by itself.
    last_end: Option<Instant>,
    /// Those who have asked for the end: when these are dropped they know that it is over.
    awaiting_end: Vec<oneshot::Sender<Given>>,
}

/// What a connection brings.
enum News {
    Asked(Ask, oneshot::Sender<Given>),
    /// A sandbox that was a spare has ended, or has had its head start.
    LeftAlone,
}

/// What somebody who has asked is given.
#[derive(Debug)]
enum Given {
    Answer(Answer),
    Spare(Waiting),
}

impl Pool {
    /// Be there for others, with no spares yet.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(state: &StateLayout, wish: Wish) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(state.warm())?;
        let [path, unfinished] = state.warm_socket(std::process::id());
        // What is found under its name takes connections.
        let listener = UnixListener::from_std(socket::listen(&unfinished)?)?;
        std::fs::rename(&unfinished, &path)?;
        Ok(Self {
            wish,
            path,
            listener,
            spares: Vec::new(),
            lent: 0,
            paused_until: None,
            last_end: None,
            awaiting_end: Vec::new(),
        })
    }

    /// Keep as many spares as wished, each made by `make`, until somebody asks to stop. `full` is called once they are there; `failed` is
    /// told why one could not be made later on.
    ///
    /// # Errors
    /// Why one of the first could not be made.
    pub async fn serve<E, F: Future<Output = Result<Waiting, E>>>(
        &mut self,
        mut make: impl FnMut() -> F,
        full: impl FnOnce() -> Result<(), E>,
        failed: impl Fn(&E),
    ) -> Result<(), E> {
        let (news_sender, mut news) = mpsc::unbounded_channel();
        let mut full = Some(full);
        let mut making: Option<Pin<Box<F>>> = None;
        loop {
            if self.spares.len() == self.wish.count as usize
                && let Some(full) = full.take()
            {
                full()?;
            }
            if making.is_none() && self.wants_another() {
                making = Some(Box::pin(make()));
            }
            let finished = async {
                match &mut making {
                    Some(making) => making.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                client = socket::accept(&self.listener) => drop(tokio::spawn(converse(client, news_sender.clone()))),
                Some(news) = news.recv() => match news {
                    News::LeftAlone => self.lent -= 1,
                    News::Asked(Ask::Stop, reply) => {
                        self.awaiting_end.push(reply);
                        return Ok(());
                    }
                    News::Asked(ask, reply) => self.answer(ask, reply),
                },
                (index, exit) = first_end(&self.spares) => {
                    tracing::warn!("a spare sandbox ended: {exit}");
                    self.spares.swap_remove(index);
                    // One may be chance.
                    if self.last_end.replace(Instant::now()).is_some_and(|last| last.elapsed() < PAUSE) {
                        self.paused_until = Some(Instant::now() + PAUSE);
                    }
                }
                outcome = finished => {
                    making = None;
                    match outcome {
                        Ok(spare) => self.spares.push(spare),
                        Err(error) if full.is_some() => return Err(error),
                        Err(error) => {
                            failed(&error);
                            self.paused_until = Some(Instant::now() + PAUSE);
                        }
                    }
                }
                () = until(self.paused_until) => self.paused_until = None,
            }
        }
    }

    /// End them all, and wait until they are gone; for one whose keeper does not do as it is told not for ever.
    pub async fn end(mut self) {
        let ends = self.spares.drain(..).map(|waiting| timeout(END_DEADLINE, waiting.spare.end()));
        let _ = ends.collect::<JoinSet<_>>().join_all().await;
    }

    fn wants_another(&self) -> bool {
        self.paused_until.is_none() && self.spares.len() + (self.lent as usize) < self.wish.count as usize
    }

    fn answer(&mut self, ask: Ask, reply: oneshot::Sender<Given>) {
        let given = match ask {
            Ask::Spare { template, image } => {
                let fits = |spare: &Waiting| spare.template == template && spare.image == image;
                let spare = self.spares.iter().position(fits).map(|index| self.spares.swap_remove(index));
                self.lent += u32::from(spare.is_some());
                spare.map_or(Given::Answer(Answer::None), Given::Spare)
            }
            Ask::Show | Ask::Stop => {
                let ready = u32::try_from(self.spares.len()).unwrap_or(u32::MAX);
                Given::Answer(Answer::Shown { wish: self.wish.clone(), ready })
            }
        };
        // A spare that nobody takes any more ends.
        let _ = reply.send(given);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Whoever finds it later removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Pass on what one client asks and what it is given.
async fn converse(client: UnixStream, news: mpsc::UnboundedSender<News>) {
    while let Ok(Ok((ask, _))) = timeout(ASK_DEADLINE, receive(&client)).await {
        let (reply, given) = oneshot::channel();
        // A pool that has ended tells nobody anything.
        if news.send(News::Asked(ask, reply)).is_err() {
            return;
        }
        let Ok(given) = given.await else { return };
        let told = match given {
            Given::Answer(answer) => send(&client, &answer, &[]).await,
            Given::Spare(Waiting { spare, namespace, .. }) => {
                let (pid, machine) = spare.into_parts();
                let parts: Vec<_> = machine.into_iter().chain(namespace.map(Into::into)).collect();
                let sent = send(&client, &Answer::Spare { pid }, &parts).await;
                // It belongs to the client alone, or to nobody: then it ends.
                drop(parts);
                if sent.is_ok() {
                    // What comes is the end: nothing else is asked by somebody who has a spare.
                    let _ = timeout(HEAD_START, receive::<Ask>(&client)).await;
                }
                let _ = news.send(News::LeftAlone);
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}

/// The first of them that ends, and how.
async fn first_end(spares: &[Waiting]) -> (usize, Exit) {
    let mut ends: Vec<_> = spares.iter().map(|waiting| Box::pin(waiting.spare.ended())).collect();
    let first = |context: &mut Context<'_>| {
        let mut ends = ends.iter_mut().enumerate();
        let ended = ends.find_map(|(index, end)| match end.as_mut().poll(context) {
            Poll::Ready(exit) => Some((index, exit)),
            Poll::Pending => None,
        });
        ended.map_or(Poll::Pending, Poll::Ready)
    };
    std::future::poll_fn(first).await
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
