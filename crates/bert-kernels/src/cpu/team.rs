//! Threads that stay awake for a whole pass.
//!
//! A pass is some hundred short jobs. Waking a thread of the pool takes longer than a small job, so
//! the threads of a team wait for the next job without going to sleep.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread waits for the next job before it returns to the pool, where other work may be
/// waiting: longer than the time between two jobs of a pass.
const PATIENCE: Duration = Duration::from_millis(1);

/// Work for a number of indices. Each is done once, by the first thread that takes it.
struct Job {
    /// Valid until every index is done: [`for_each`] waits for that.
    work: *const (dyn Fn(usize) + Sync),
    count: usize,
    /// The next index to take.
    next: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicBool,
}

// SAFETY: `work` is `Sync`, so several threads may call it, and they call it only while the thread that
// lent it waits.
unsafe impl Send for Job {}
// SAFETY: as for `Send`.
unsafe impl Sync for Job {}

impl Job {
    fn help(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            // SAFETY: this index is not done yet, so the thread that lent the work still waits.
            let work = unsafe { &*self.work };
            if catch_unwind(AssertUnwindSafe(|| work(index))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

/// Threads that wait for jobs.
#[derive(Default)]
struct Team {
    job: Mutex<Option<Arc<Job>>>,
    /// The number of jobs so far.
    jobs: AtomicUsize,
    /// The number of threads that help or were asked to.
    helpers: AtomicUsize,
    over: AtomicBool,
}

thread_local! {
    /// The team that this thread leads.
    static TEAM: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// Runs `work` with a team of Rayon's threads that stay awake from one kernel to the next.
///
/// A kernel outside of such a call has a team for itself. Threads that are busy with other work join
/// later or not at all; the result is the same.
///
/// Of the threads outside of the pool, as many as there are processors run such a call at a time. The
/// others sleep: they would only take memory, and time from those that run. So `work` must not wait for
/// another thread that runs a kernel.
pub fn with_thread_team<R>(work: impl FnOnce() -> R) -> R {
    if TEAM.with_borrow(Option::is_some) {
        return work();
    }
    let _turn = Turn::wait();
    let team = Arc::new(Team::default());
    TEAM.set(Some(team.clone()));
    let result = catch_unwind(AssertUnwindSafe(work));
    TEAM.set(None);
    team.over.store(true, Ordering::Release);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The right of a thread outside of the pool to run.
struct Turn {
    is_counted: bool,
}

/// The number of threads outside of the pool that run.
static RUNNING: Mutex<usize> = Mutex::new(0);
/// Told when one of them has ended.
static ENDED: Condvar = Condvar::new();

impl Turn {
    /// Waits for it. A thread of the pool never waits, because those that run may wait for its work.
    fn wait() -> Self {
        static PROCESSORS: OnceLock<usize> = OnceLock::new();
        if rayon::current_thread_index().is_some() {
            return Self { is_counted: false };
        }
        let processors = *PROCESSORS
            .get_or_init(|| std::thread::available_parallelism().map_or(1, |count| count.get()));
        let most = processors.max(rayon::current_num_threads());
        let mut running = ENDED
            .wait_while(Self::running(), |running| *running >= most)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self { is_counted: true }
    }

    fn running() -> MutexGuard<'static, usize> {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_counted {
            *Self::running() -= 1;
            ENDED.notify_one();
        }
    }
}

impl Team {
    /// Offers the job to every thread of the pool.
    fn publish(self: &Arc<Self>, job: &Arc<Job>) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job.clone());
        self.jobs.fetch_add(1, Ordering::Release);
        // Threads that have returned to the pool are asked again.
        let wanted = rayon::current_num_threads() - 1;
        for _ in self.helpers.load(Ordering::Relaxed)..wanted {
            self.helpers.fetch_add(1, Ordering::Relaxed);
            let team = self.clone();
            rayon::spawn(move || team.help());
        }
    }

    fn help(&self) {
        let mut seen = 0;
        loop {
            let called =
                || self.over.load(Ordering::Acquire) || self.jobs.load(Ordering::Acquire) != seen;
            if !wait_for(called, Some(PATIENCE)) || self.over.load(Ordering::Acquire) {
                self.helpers.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            seen = self.jobs.load(Ordering::Acquire);
            let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(job) = job {
                job.help();
            }
        }
    }
}

/// Does `work` for each index below `count`, on every thread of the team.
pub(crate) fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    if count <= 1 || rayon::current_num_threads() == 1 {
        return (0..count).for_each(work);
    }
    with_thread_team(|| {
        let work: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: only the lifetime changes. This function returns when every index is done, and
        // `Job::help` calls the work for indices that are not done only.
        let work: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let job = Arc::new(Job { work, count, next, done, failed: AtomicBool::new(false) });
        if let Some(team) = TEAM.with_borrow(Option::clone) {
            team.publish(&job);
        }
        job.help();
        wait_for(|| job.done.load(Ordering::Acquire) == count, None);
        if job.failed.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a thread of the team panicked"));
        }
    });
}

/// Waits, at most as long as `at_most` says, without going to sleep; after a while it yields the
/// processor to other threads. Returns whether it is ready.
fn wait_for(ready: impl Fn() -> bool, at_most: Option<Duration>) -> bool {
    const SPINS: usize = 1000;
    for _ in 0..SPINS {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while !ready() {
        if at_most.is_some_and(|most| start.elapsed() > most) {
            return ready();
        }
        std::thread::yield_now();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_done_once_within_and_without_a_pass() {
        let check = |count| {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            for_each(count, |i| {
                done[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "{count}");
        };
        for count in [0, 1, 2, 3, 1000] {
            check(count);
        }
        with_thread_team(|| (0..500).for_each(check));
    }

    #[test]
    fn passes_at_once_and_inside_of_the_pool_all_end() {
        let sum = |n: usize| {
            with_thread_team(|| {
                let sum = AtomicUsize::new(0);
                for_each(n, |i| {
                    for_each(3, |j| {
                        sum.fetch_add(i * j, Ordering::Relaxed);
                    });
                });
                sum.into_inner()
            })
        };
        let expected = |n: usize| 3 * n * (n - 1) / 2;
        std::thread::scope(|scope| {
            let sums: Vec<_> = (1..9).map(|n| scope.spawn(move || sum(n * 100))).collect();
            for (n, handle) in (1..9).zip(sums) {
                assert_eq!(handle.join().ok(), Some(expected(n * 100)));
            }
        });
        use rayon::prelude::*;
        (1..50usize).into_par_iter().for_each(|n| assert_eq!(sum(n), expected(n)));
    }

    #[test]
    fn no_more_threads_run_at_a_time_than_there_are_processors() {
        let processors = std::thread::available_parallelism().unwrap().get();
        let most = processors.max(rayon::current_num_threads());
        let (running, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 * most {
                scope.spawn(|| {
                    // One that panics gives its turn back too.
                    let _ = catch_unwind(AssertUnwindSafe(|| {
                        with_thread_team(|| {
                            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                            seen.fetch_max(now, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(2));
                            running.fetch_sub(1, Ordering::SeqCst);
                            panic!("on purpose");
                        });
                    }));
                });
            }
        });
        assert!(seen.load(Ordering::SeqCst) <= most);
    }

    #[test]
    fn a_panic_reaches_the_one_who_asked() {
        let result = catch_unwind(|| {
            for_each(100, |i| assert!(i != 50, "on purpose"));
        });
        assert!(result.is_err());
        // The next job works.
        for_each(100, |_| {});
    }
}
