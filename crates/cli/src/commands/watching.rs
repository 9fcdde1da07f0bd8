//! What `run` tells of the sandbox's network: what is denied or blocked, as it happens, and what `--learn` has learned, at the end.

use std::sync::Arc;

use matchlock_sandbox::network::{Learned, Lesson, Listener, MAX_LEARNED, MAX_TOLD};
use tokio::{sync::mpsc, task::JoinHandle};

use super::ending;
use crate::output;

/// See the module. The gateway never waits for it, nor for whoever reads standard error.
pub(crate) struct Watching {
    refusals: Option<Aside>,
    learned: Option<Arc<Learned>>,
}

/// Lines on their way to standard error, on a thread of their own. `None` is the last.
struct Aside {
    lines: mpsc::Sender<Option<String>>,
    written: JoinHandle<()>,
}

impl Watching {
    /// With `aloud` what is refused is told; with `learns`, what was asked for is remembered. On a runtime.
    pub(crate) fn new(aloud: bool, learns: bool) -> Self {
        let refusals = aloud.then(|| {
            // Room for all that there can be.
            let (lines, mut queue) = mpsc::channel::<Option<String>>(MAX_TOLD + 2);
            let written = tokio::task::spawn_blocking(move || {
                while let Some(Some(line)) = queue.blocking_recv() {
                    output::note(&line);
                }
            });
            Aside { lines, written }
        });
        Self { refusals, learned: learns.then(Arc::default) }
    }

    /// What the gateway's events go to.
    pub(crate) fn listener(&self) -> Option<Listener> {
        let lines = self.refusals.as_ref().map(|aside| aside.lines.clone());
        let learned = self.learned.clone();
        if lines.is_none() && learned.is_none() {
            return None;
        }
        Some(Listener(Arc::new(move |event, line| {
            if let Some(learned) = &learned {
                learned.hear(event);
            }
            if let (Some(lines), Some(line)) = (&lines, line) {
                // There is room, unless it is over.
                let _ = lines.try_send(Some(line.to_owned()));
            }
        })))
    }

    /// Nothing happens any more: wait until all is told, but for a reader that takes nothing.
    pub(crate) async fn finish(self) {
        if let Some(Aside { lines, written }) = self.refusals {
            let _ = lines.try_send(None);
            ending::last_output(async {
                let _ = written.await;
            })
            .await;
        }
        if let Some(learned) = self.learned {
            output::note(&told(&learned.lesson()));
        }
    }
}

/// The smallest allow-list, ready to be pasted, and what it does not have.
fn told(lesson: &Lesson) -> String {
    let mut lines = Vec::new();
    if lesson.allowed.is_empty() {
        lines.push("learned: the sandbox connected to nothing; --network-intercept allows it as much".to_owned());
    } else {
        lines.push("learned: these flags allow what the sandbox connected to, and nothing else:".to_owned());
        lines.push(format!("  --allow-host {}", quoted(&lesson.allowed.join(","))));
    }
    lines.extend(lesson.refused.iter().map(|refused| format!("  not reached: {refused}")));
    lines.extend(lesson.uncarried.iter().map(|what| format!("  not with an allow-list: {what}")));
    if lesson.overflowed {
        lines.push(format!("  and more than {MAX_LEARNED} hosts, which are left out"));
    }
    lines.join("\n")
}

/// A word for a shell (POSIX, section 2.2).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:,/-".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lesson_can_be_pasted() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(told(&Lesson::default()).lines().count(), 1);
        let lesson = Lesson {
            allowed: words(&["[2001:db8::1]:22", "api.x.com", "db.x.com:5432"]),
            refused: words(&["10.0.0.5: 10.0.0.5 is a private address (--allow-private-host 10.0.0.5 would allow it)"]),
            uncarried: words(&["UDP to api.x.com port 443"]),
            overflowed: true,
        };
        insta::assert_snapshot!(told(&lesson), @r"
        learned: these flags allow what the sandbox connected to, and nothing else:
          --allow-host '[2001:db8::1]:22,api.x.com,db.x.com:5432'
          not reached: 10.0.0.5: 10.0.0.5 is a private address (--allow-private-host 10.0.0.5 would allow it)
          not with an allow-list: UDP to api.x.com port 443
          and more than 1000 hosts, which are left out
        ");
        assert_eq!(quoted("api.x.com,db:5432"), "api.x.com,db:5432");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
