//! The thread that writes: many requests at a time, which are answered when all of them last.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::{mpsc, oneshot};
use vmcast_proto::registry::{Error, Registry, Store, UnixMillis};

use super::Clock;

/// Requests that wait for the thread; more wait where they come from.
const QUEUE: usize = 1024;
/// Requests that are written together at most.
const BATCH: usize = 512;

/// The failure of a store, which all requests of a batch are told.
pub(super) type Failure<S> = Arc<<S as Store>::Error>;

/// Answers a request, once it is known whether what it did lasts.
type Answer<S> = Box<dyn FnOnce(Result<(), Failure<S>>) + Send>;
/// What a request does.
type Job<S> = Box<dyn FnOnce(&mut Registry<S>, UnixMillis) -> Answer<S> + Send>;
/// Its result, or what it panicked with.
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// What whoever asked is told.
type Done<S, T> = Outcome<Result<T, Error<Failure<S>>>>;

/// The thread. Dropped, it writes what waits and ends.
pub(super) struct Writer<S: Store> {
    jobs: Option<mpsc::Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Store + Send + 'static> Writer<S> {
    /// Starts it.
    ///
    /// # Errors
    /// If the host has no thread to spare.
    pub(super) fn start(registry: Registry<S>, clock: Clock) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("registry".to_owned());
        let thread = thread.spawn(move || run(registry, &clock, waiting))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has `work` done, and returns when it lasts.
    ///
    /// # Errors
    /// What `work` says, or that it could not be made to last: then nothing of it was done.
    pub(super) async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut Registry<S>, UnixMillis) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Error<Failure<S>>>
    where
        T: Send + 'static,
        E: Into<Error<S::Error>> + Send + 'static,
    {
        let (job, outcome) = job(work);
        match &self.jobs {
            Some(jobs) if jobs.send(job).await.is_ok() => match outcome.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
            // The process is ending and takes the caller with it.
            Some(_) | None => std::future::pending().await,
        }
    }

    /// The same from a thread that may block.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Registry<S>, UnixMillis) -> Result<T, Error<S::Error>> + Send + 'static,
    ) -> Result<T, Error<Failure<S>>> {
        let (job, outcome) = job(work);
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, there is no outcome either.
            let _ = jobs.blocking_send(job);
        }
        match outcome.blocking_recv() {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("the registry's thread has ended before who uses it"),
        }
    }
}

/// What the thread is to do, and what comes of it.
fn job<S, T, E>(
    work: impl FnOnce(&mut Registry<S>, UnixMillis) -> Result<T, E> + Send + 'static,
) -> (Job<S>, oneshot::Receiver<Done<S, T>>)
where
    S: Store + Send + 'static,
    T: Send + 'static,
    E: Into<Error<S::Error>> + Send + 'static,
{
    let (reply, outcome) = oneshot::channel::<Done<S, T>>();
    let job: Job<S> = Box::new(move |registry, now| {
        // Commits are atomic, so a panic in one request leaves nothing half done.
        let done = catch_unwind(AssertUnwindSafe(|| work(registry, now)));
        Box::new(move |flushed| {
            let outcome = done.map(|done| match done.map_err(Into::into) {
                Ok(granted) => flushed.map(|()| granted).map_err(Error::Store),
                Err(Error::Refused(refusal)) => Err(Error::Refused(refusal)),
                Err(Error::Store(failure)) => Err(Error::Store(Arc::new(failure))),
            });
            // Who asked may be gone.
            let _ = reply.send(outcome);
        })
    });
    (job, outcome)
}

fn run<S: Store>(mut registry: Registry<S>, clock: &Clock, mut waiting: mpsc::Receiver<Job<S>>) {
    let mut jobs = Vec::new();
    while waiting.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let now = clock.now();
        let answers: Vec<_> = jobs.drain(..).map(|job| job(&mut registry, now)).collect();
        let flushed = registry.flush().map_err(Arc::new);
        for answer in answers {
            answer(flushed.clone());
        }
    }
}

impl<S: Store> Drop for Writer<S> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It has caught its panics; whoever opens the store next finds it free.
            let _ = thread.join();
        }
    }
}

impl<S: Store> fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
