//! Threads that share a kernel's work.

use std::ffi::{c_uint, c_void};
use std::mem::transmute;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` for every part, on up to `threads` threads at once.
///
/// Takes libtorch's own threads where it can. They wait for their next work by spinning, and threads beside them would have to
/// share the cores with that.
pub(crate) fn share<P: Send>(parts: &mut [P], threads: usize, work: impl Fn(&mut P) + Sync) {
    let threads = threads.min(parts.len());
    let parts = parts.iter_mut().map(Mutex::new).collect::<Vec<_>>();
    let work = |index: usize| work(&mut parts[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    let job = Job { next: AtomicUsize::new(0), parts: parts.len(), work: &work };
    if threads <= 1 {
        job.run();
    } else if let Some(team) = OpenMp::find() {
        team.run(&job, threads);
    } else {
        thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(|| job.run())));
            job.run();
        });
    }
}

/// Says whether libtorch's threads wait by spinning, since nothing tells GNU's OpenMP otherwise.
///
/// It reads the environment when it is loaded, so only a new process can change this.
pub(crate) fn threads_spin() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    tch::get_num_threads() > 1 && OpenMp::find().is_some() && !is_set("GOMP_SPINCOUNT") && !is_set("OMP_WAIT_POLICY")
}

/// What threads take their parts from.
struct Job<'a> {
    next: AtomicUsize,
    parts: usize,
    work: &'a (dyn Fn(usize) + Sync),
}

impl Job<'_> {
    /// Does parts until none is left.
    fn run(&self) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= self.parts {
                return;
            }
            (self.work)(part);
        }
    }
}

/// `GOMP_parallel(function, data, num_threads, flags)`: runs the function on every thread of a team, and returns when all are done.
///
/// # Safety
///
/// The function must accept the data on any thread, as long as the call lasts, and must not unwind.
type Parallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// GNU's OpenMP, which libtorch runs on under Linux.
struct OpenMp {
    parallel: Parallel,
}

impl OpenMp {
    /// Finds the library that libtorch has loaded; loads none.
    #[cfg(target_os = "linux")]
    fn find() -> Option<Self> {
        // SAFETY: both functions take strings that end in zero, and the library stays loaded, since libtorch holds it. The symbol
        // has the type that the library documents, and a pointer to a function is as large as one to data.
        unsafe {
            let library = libc::dlopen(c"libgomp.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if library.is_null() {
                return None;
            }
            let parallel = libc::dlsym(library, c"GOMP_parallel".as_ptr());
            libc::dlclose(library);
            (!parallel.is_null()).then(|| Self { parallel: transmute::<*mut c_void, Parallel>(parallel) })
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn find() -> Option<Self> {
        None
    }

    fn run(&self, job: &Job, threads: usize) {
        // SAFETY: `run` takes a job, which may be shared by threads and outlives the call. A panic in it aborts the process.
        unsafe { (self.parallel)(run, (&raw const *job).cast_mut().cast(), threads as c_uint, 0) }
    }
}

/// Does a share of a job.
///
/// # Safety
///
/// The pointer must be to a [`Job`] that lives as long as the call.
unsafe extern "C" fn run(job: *mut c_void) {
    // SAFETY: the caller ensures it.
    unsafe { &*job.cast_const().cast::<Job>() }.run();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for (parts, threads) in [(0, 2), (1, 2), (2, 2), (7, 2), (3, 8), (3, 1)] {
            let mut done = vec![0; parts];
            share(&mut done, threads, |done| *done += 1);
            assert_eq!(done, vec![1; parts]);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn libtorchs_own_threads_are_found() {
        assert!(tch::get_num_threads() > 0); // libtorch is loaded
        assert!(OpenMp::find().is_some());
    }
}
