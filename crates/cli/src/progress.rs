//! Progress of pulls and imports: bars on a terminal, a few quiet lines otherwise.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use matchlock_model::Digest;
use matchlock_sandbox::image::{Event, Progress};

use crate::output;

/// Hex digits of a layer's digest that are shown.
const SHOWN_DIGITS: usize = 12;

/// Draws what it is told.
#[derive(Debug)]
pub(crate) struct Display {
    bars: Option<Bars>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    status: ProgressBar,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Display {
    /// For this stderr.
    pub(crate) fn new() -> Arc<Self> {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let status = all.add(ProgressBar::new_spinner());
            Bars { all, status, layers: Mutex::default() }
        });
        Arc::new(Self { bars })
    }

    /// Take everything off the screen again.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.bars {
            for (_, bar) in bars.layers.lock().unwrap_or_else(PoisonError::into_inner).drain() {
                bar.finish_and_clear();
            }
            bars.status.finish_and_clear();
        }
    }
}

impl Progress for Display {
    fn event(&self, event: Event) {
        match &self.bars {
            Some(bars) => bars.draw(event),
            None => tell(event),
        }
    }
}

impl Bars {
    fn draw(&self, event: Event) {
        match event {
            Event::Resolved { layers, .. } => self.status.set_message(format!("{layers} layers")),
            Event::Waiting => self.status.set_message("another process is making this image"),
            Event::LayerCached { layer, .. } => self.status.set_message(format!("{} is here", short(&layer))),
            Event::Downloading { layer, done, total } => {
                let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = layers.entry(layer).or_insert_with(|| self.bar(&layer, total));
                bar.set_position(done);
                if done >= total {
                    bar.finish_and_clear();
                }
            }
            Event::Retrying { layer } => self.status.set_message(format!("{}: connection lost, again", short(&layer))),
            Event::Reading { done } => self.status.set_message(format!("{} MB read", done / 1_048_576)),
            Event::Unpacking { number, count } => {
                self.status.set_message(format!("unpacking layer {number} of {count}"));
            }
            Event::Finishing => self.status.set_message("writing the image"),
            _ => {}
        }
        self.status.tick();
    }

    fn bar(&self, layer: &Digest, total: u64) -> ProgressBar {
        let bar = self.all.add(ProgressBar::new(total));
        let style = ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(short(layer));
        bar
    }
}

/// Not a terminal: what takes long, once.
fn tell(event: Event) {
    match event {
        Event::Resolved { layers, bytes } => {
            output::note(&format!("pulling {layers} layers, {} MB compressed", bytes.div_ceil(1_048_576)));
        }
        Event::Waiting => output::note("waiting for another matchlock that is making this image"),
        Event::Retrying { layer } => output::note(&format!("layer {}: connection lost, trying again", short(&layer))),
        _ => {}
    }
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(SHOWN_DIGITS).collect()
}
