//! Threads that share a kernel's work.
//!
//! They are our own, because libtorch's spin for long while they wait, which takes the processor from others. These spin for some
//! microseconds, about as long as it takes to wake a thread, and sleep then.
//!
//! Each thread has a fair share of the parts. Whoever calls waits after its share for the others to begin: asleep, it leaves its core
//! to them. On a busy machine it would otherwise do nearly all the work itself before they are awake, with the processor time of one
//! thread only.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{hint, process, ptr, thread};

/// How long a thread waits before it sleeps.
const SPIN: Duration = Duration::from_micros(30);

/// How long a caller waits for helpers to begin.
const PATIENCE: Duration = Duration::from_millis(5);

/// Does `work` for every part, on up to `threads` threads at once, the caller's among them.
///
/// # Panics
///
/// If `work` panics: with the first panic, when no thread works any more.
pub(crate) fn share<P: Send>(parts: &mut [P], threads: usize, work: impl Fn(&mut P) + Sync) {
    share_with(parts, threads, || (), |(), part| work(part));
}

/// Does the same with a value of its own for each thread, such as memory to work in.
///
/// # Panics
///
/// As [`share`].
pub(crate) fn share_with<P: Send, S>(
    parts: &mut [P],
    threads: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &mut P) + Sync,
) {
    let helpers = threads.min(parts.len()).saturating_sub(1);
    let fair_share = parts.len().div_ceil(helpers + 1);
    let parts = Mutex::new(parts.iter_mut());
    let take = || lock(&parts).next();
    let participate = |most: usize| {
        let mut own = None;
        for part in std::iter::from_fn(take).take(most) {
            work(own.get_or_insert_with(&scratch), part);
        }
    };
    if helpers == 0 { participate(usize::MAX) } else { Pool::of_this_process().run(helpers, fair_share, &participate) }
}

/// Says whether libtorch's threads wait by spinning, since nothing tells GNU's OpenMP otherwise.
///
/// It reads the environment when it is loaded, so only a new process can change this.
pub(crate) fn libtorchs_threads_spin() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    cfg!(target_os = "linux") && tch::get_num_threads() > 1 && !is_set("GOMP_SPINCOUNT") && !is_set("OMP_WAIT_POLICY")
}

/// Work that several threads do together.
struct Job<'a> {
    /// Takes parts, up to a number of them, until none is left.
    work: &'a (dyn Fn(usize) + Sync),
    /// How many helpers are working. Counted up under the pool's lock only.
    running: AtomicUsize,
    /// Whether helpers can still be of use: parts are left, and not all have begun.
    needs_helpers: AtomicBool,
    /// What the first helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The threads that help. They live as long as the process.
struct Pool {
    /// A child of `fork` has none of the threads, and perhaps a lock that nobody releases: it needs another pool.
    process: u32,
    state: Mutex<State>,
    /// The number of jobs that wait for helpers, to look at without the lock.
    open: AtomicUsize,
    job_posted: Condvar,
    job_changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Posted>,
    threads: usize,
    /// Threads that work on a job.
    working: usize,
    /// Threads that sleep until a job is posted.
    idle: usize,
    /// Callers that sleep until helpers have begun, or are done.
    waiting: usize,
}

/// A job with seats for helpers.
struct Posted {
    job: *const Job<'static>,
    seats: usize,
}

// SAFETY: a job may be shared by threads, and outlives its entry here: see `Pool::run`.
unsafe impl Send for Posted {}

static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

impl Pool {
    fn of_this_process() -> &'static Self {
        let current = POOL.load(Ordering::Acquire);
        // SAFETY: pools are never freed once they are in `POOL`.
        match unsafe { current.as_ref() } {
            Some(pool) if pool.process == process::id() => pool,
            _ => Self::replace(current),
        }
    }

    fn replace(current: *mut Self) -> &'static Self {
        let new = Box::into_raw(Box::new(Self {
            process: process::id(),
            state: Mutex::default(),
            open: AtomicUsize::new(0),
            job_posted: Condvar::new(),
            job_changed: Condvar::new(),
        }));
        // SAFETY: a pool in `POOL` is never freed; `new` is used by nobody if another thread was faster.
        unsafe {
            match POOL.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => &*new,
                Err(others) => {
                    drop(Box::from_raw(new));
                    &*others
                }
            }
        }
    }

    /// Calls `work` on this thread, and on up to so many others at the same time.
    fn run(&'static self, helpers: usize, fair_share: usize, work: &(dyn Fn(usize) + Sync)) {
        let (running, needs_helpers) = (AtomicUsize::new(0), AtomicBool::new(true));
        let job = Job { work, running, needs_helpers, panic: Mutex::new(None) };
        // From here on until the helpers are done nothing may unwind: they use what this function's caller has borrowed.
        let posted = (&raw const job).cast::<Job<'static>>();
        self.post(Posted { job: posted, seats: helpers });
        let result = catch_unwind(AssertUnwindSafe(|| {
            work(fair_share);
            self.wait_for_helpers(&job);
            work(usize::MAX);
        }));
        self.change(|state| state.jobs.retain(|other| !ptr::eq(other.job, posted)));
        self.wait_for(&job);
        let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = result.err().or(panic) {
            resume_unwind(panic);
        }
    }

    /// Offers a job to helpers, and starts those that are missing. Without them, the caller does all the work.
    fn post(&'static self, posted: Posted) {
        let helpers = posted.seats;
        let idle = self.change(|state| {
            while state.threads < helpers {
                let thread = thread::Builder::new().name(format!("earlystop-{}", state.threads + 1));
                if thread.spawn(|| self.help()).is_err() {
                    break;
                }
                state.threads += 1;
            }
            state.jobs.push(posted);
            state.idle
        });
        (0..helpers.min(idle)).for_each(|_| self.job_posted.notify_one());
    }

    /// Waits until the helpers that are free have begun.
    fn wait_for_helpers(&self, job: &Job) {
        let needs_helpers = || job.needs_helpers.load(Ordering::Relaxed);
        if spin_until(|| !needs_helpers()) {
            return;
        }
        let end = Instant::now() + PATIENCE;
        let mut state = lock(&self.state);
        state.waiting += 1;
        while needs_helpers() && state.working < state.threads {
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            let woken = self.job_changed.wait_timeout(state, rest);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// Waits until no helper works on a job that is no longer offered.
    fn wait_for(&self, job: &Job) {
        let is_done = || job.running.load(Ordering::Acquire) == 0;
        if spin_until(is_done) {
            return;
        }
        let mut state = lock(&self.state);
        state.waiting += 1;
        while !is_done() {
            state = self.job_changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// Does the work of a helper, forever.
    fn help(&self) {
        loop {
            // SAFETY: the job counts this helper, so `run` waits for it.
            let job = unsafe { &*self.take() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(usize::MAX))) {
                lock(&job.panic).get_or_insert(panic);
            }
            let mut state = lock(&self.state);
            state.working -= 1;
            job.needs_helpers.store(false, Ordering::Relaxed); // no parts are left
            // The last use of the job: `run` may return now.
            job.running.fetch_sub(1, Ordering::Release);
            self.wake_callers(&state);
        }
    }

    /// Waits for a job, and takes a seat at it.
    fn take(&self) -> *const Job<'static> {
        loop {
            let taken = self.change(|state| {
                let posted = state.jobs.first_mut()?;
                posted.seats -= 1;
                let (job, is_full) = (posted.job, posted.seats == 0);
                // SAFETY: a job that is offered exists.
                let taken = unsafe { &*job };
                taken.running.fetch_add(1, Ordering::Relaxed);
                state.working += 1;
                if is_full {
                    taken.needs_helpers.store(false, Ordering::Relaxed);
                    state.jobs.remove(0);
                }
                self.wake_callers(state);
                Some(job)
            });
            if let Some(job) = taken {
                return job;
            }
            if spin_until(|| self.open.load(Ordering::Relaxed) > 0) {
                continue;
            }
            let mut state = lock(&self.state);
            if state.jobs.is_empty() {
                state.idle += 1;
                state = self.job_posted.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    /// Wakes callers, to look what has changed.
    fn wake_callers(&self, state: &State) {
        if state.waiting > 0 {
            self.job_changed.notify_all();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        self.open.store(state.jobs.len(), Ordering::Relaxed);
        result
    }
}

/// Locks; what a panic left behind is valid, since nothing that is done under these locks panics half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a short time; returns whether the condition was met.
fn spin_until(is_met: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        for _ in 0..16 {
            if is_met() {
                return true;
            }
            hint::spin_loop();
        }
        if begin.elapsed() > SPIN {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for (parts, threads) in [(0, 2), (1, 2), (2, 2), (7, 2), (3, 8), (3, 1), (1000, 4), (5, 0)] {
            let mut done = vec![0; parts];
            share(&mut done, threads, |done| *done += 1);
            assert_eq!(done, vec![1; parts]);
        }
    }

    #[test]
    fn as_many_threads_as_asked_for_work_at_once() {
        let (arrived, names) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
        share(&mut [(); 3], 3, |()| {
            lock(&names).insert(thread::current().name().map(str::to_owned));
            arrived.fetch_add(1, Ordering::SeqCst);
            let begin = Instant::now();
            while arrived.load(Ordering::SeqCst) < 3 {
                assert!(begin.elapsed() < Duration::from_secs(60), "nobody else came");
                thread::yield_now();
            }
        });
        let names = names.into_inner().unwrap();
        let helpers = names.iter().flatten().filter(|name| name.starts_with("earlystop-")).count();
        assert_eq!((names.len(), helpers), (3, 2), "{names:?}");
    }

    #[test]
    fn many_short_jobs_of_several_callers_are_all_done() {
        thread::scope(|scope| {
            for caller in 0..4 {
                scope.spawn(move || {
                    for job in 0..3000 {
                        let mut parts = [caller + job; 5];
                        share(&mut parts, 2 + job % 3, |part| *part += 1);
                        assert_eq!(parts, [caller + job + 1; 5]);
                    }
                });
            }
        });
    }

    #[test]
    fn jobs_within_jobs_are_done() {
        let mut sums = [0; 8];
        share(&mut sums, 4, |sum| {
            let mut parts = [1; 8];
            share(&mut parts, 4, |part| share(std::slice::from_mut(part), 4, |part| *part += 1));
            *sum = parts.iter().sum();
        });
        assert_eq!(sums, [16; 8]);
    }

    #[test]
    fn each_thread_has_a_scratch_of_its_own() {
        let (made, mut parts) = (AtomicUsize::new(0), [0; 100]);
        let scratch = || made.fetch_add(1, Ordering::SeqCst);
        share_with(&mut parts, 3, scratch, |own, part| *part = *own + 1);
        let made = made.into_inner();
        assert!((1..=3).contains(&made) && parts.iter().all(|part| (1..=made).contains(part)), "{made}, {parts:?}");
    }

    #[test]
    fn a_panic_is_passed_on_when_all_is_done_and_the_threads_go_on() {
        for failing in [0, 3, 7] {
            let done = AtomicUsize::new(0);
            let mut parts = [0, 1, 2, 3, 4, 5, 6, 7];
            let work = |part: &mut usize| {
                assert!(*part != failing, "part {failing} fails");
                thread::sleep(Duration::from_millis(1));
                done.fetch_add(1, Ordering::SeqCst);
            };
            let panic = catch_unwind(AssertUnwindSafe(|| share(&mut parts, 4, work))).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("part {failing} fails"));
            let before = done.load(Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            assert_eq!(done.load(Ordering::SeqCst), before, "somebody still works");
        }
        every_part_is_done_once();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_sleep_when_there_is_nothing_to_do() {
        share(&mut [(); 8], 4, |()| thread::sleep(Duration::from_millis(2)));
        let asleep = || {
            let state = lock(&Pool::of_this_process().state);
            state.jobs.is_empty() && state.idle == state.threads
        };
        let begin = Instant::now();
        while !asleep() {
            // Other tests in this process work with the same threads.
            assert!(begin.elapsed() < Duration::from_secs(60), "they are still awake");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs a test in a process of its own, in which no other test uses the threads; returns whether this is that process.
    fn is_alone(test: &str) -> bool {
        const CHILD: &str = "EARLYSTOP_TEST_TEAM";
        if std::env::var_os(CHILD).is_some() {
            return true;
        }
        let mut child = process::Command::new(std::env::current_exe().unwrap());
        let name = format!("kernels::team::tests::{test}");
        assert!(child.args(["--exact", &name, "--test-threads=1"]).env(CHILD, "1").status().unwrap().success());
        false
    }

    #[test]
    fn helpers_get_their_share_of_the_shortest_jobs() {
        if !is_alone("helpers_get_their_share_of_the_shortest_jobs") {
            return;
        }
        let helped = (0..100).filter(|_| {
            let mut threads = [thread::current().id(); 2];
            share(&mut threads, 2, |part| *part = thread::current().id());
            threads[0] != threads[1]
        });
        let helped = helped.count();
        assert!(helped > 10, "helpers did anything in {helped} of 100 jobs"); // nearly all on an idle machine
    }

    #[test]
    fn nobody_waits_for_helpers_that_work_for_others() {
        if !is_alone("nobody_waits_for_helpers_that_work_for_others") {
            return;
        }
        let (barrier, begin) = (std::sync::Barrier::new(3), Instant::now());
        thread::scope(|scope| {
            scope.spawn(|| {
                share(&mut [(); 2], 2, |()| {
                    barrier.wait();
                    barrier.wait();
                });
            });
            barrier.wait();
            // The only helper is busy until all of these are done.
            (0..1000).for_each(|_| share(&mut [(); 2], 2, |()| ()));
            barrier.wait();
        });
        assert!(begin.elapsed() < 1000 * PATIENCE / 2, "{:?}", begin.elapsed());
    }

    #[test]
    #[cfg(unix)]
    fn a_forked_child_has_threads_of_its_own() {
        // Only the thread that forks is in the copy, and no other test may hold its locks.
        if !is_alone("a_forked_child_has_threads_of_its_own") {
            return;
        }
        every_part_is_done_once();
        // SAFETY: the copy uses nothing that another thread could have held, and leaves by `_exit`; `alarm` ends it if it hangs.
        unsafe {
            let copy = libc::fork();
            if copy == 0 {
                libc::alarm(60);
                let is_done = catch_unwind(as_many_threads_as_asked_for_work_at_once).is_ok();
                libc::_exit(if is_done { 0 } else { 1 });
            }
            let mut status = -1;
            assert_eq!((libc::waitpid(copy, &raw mut status, 0), status), (copy, 0));
        }
        every_part_is_done_once();
    }
}
