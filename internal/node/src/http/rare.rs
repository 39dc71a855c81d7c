//! A future that hardly ever has news, in a task that is woken all the time.
//!
//! The task of a connection is woken for every request and polls everything that it waits for, also the two signals that
//! come once in the life of the process. Asking those takes locks. Here the signal is asked only when it has called by
//! itself, which its own waker notes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Waits for a future without asking it at every poll. Must not be polled after it is done.
pub(super) struct Rare<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// Who is woken by the bell.
    task: Option<Waker>,
}

/// Rings when the future has something to tell.
struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> Rare<F> {
    pub fn new(inner: F) -> Self {
        Self {
            inner: Box::pin(inner),
            bell: Arc::new(Bell {
                // The first poll asks.
                has_rung: AtomicBool::new(true),
                task: AtomicWaker::new(),
            }),
            task: None,
        }
    }
}

impl<F: Future> Future for Rare<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let task = self.task.as_ref();
        if !task.is_some_and(|task| task.will_wake(cx.waker())) {
            // Before the look at the bell: from here on it wakes this task.
            self.bell.task.register(cx.waker());
            self.task = Some(cx.waker().clone());
        }
        if !self.bell.has_rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.bell.has_rung.store(false, Ordering::Release);
        let bell = Waker::from(Arc::clone(&self.bell));
        self.inner.as_mut().poll(&mut Context::from_waker(&bell))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// Counts how often it is asked.
    struct Asked<F>(Pin<Box<F>>, Arc<AtomicUsize>);

    impl<F: Future> Future for Asked<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.as_mut().poll(cx)
        }
    }

    #[test]
    fn the_signal_is_asked_once_and_when_it_has_come() {
        let (signal, asked) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let waits = signal.clone().cancelled_owned();
        let mut rare = Rare::new(Asked(Box::pin(waits), Arc::clone(&asked)));
        let task = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut poll = || Pin::new(&mut rare).poll(&mut Context::from_waker(&waker));
        for _ in 0..10 {
            assert!(poll().is_pending());
        }
        assert_eq!((asked.load(Ordering::Relaxed), task.woken()), (1, 0));
        signal.cancel();
        assert_eq!(task.woken(), 1);
        assert!(poll().is_ready());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_latest_task_is_woken() {
        let signal = CancellationToken::new();
        let mut rare = Rare::new(Box::pin(signal.cancelled()));
        let tasks = [Arc::<Task>::default(), Arc::<Task>::default()];
        for task in &tasks {
            let waker = Waker::from(Arc::clone(task));
            let polled = Pin::new(&mut rare).poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        signal.cancel();
        assert_eq!(tasks.map(|task| task.woken()), [0, 1]);
    }
}
