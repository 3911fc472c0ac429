//! Threads that share a kernel's work.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` for every part from 0 to below `parts`, on as many threads at once.
///
/// Takes libtorch's own threads where it can. They wait for their next work by spinning, and threads beside them would have to
/// share the cores with that.
pub(super) fn share(parts: usize, work: &(dyn Fn(usize) + Sync)) {
    if parts <= 1 {
        (0..parts).for_each(work);
    } else if let Some(team) = OpenMp::find() {
        team.share(parts, work);
    } else {
        thread::scope(|scope| {
            (1..parts).for_each(|part| drop(scope.spawn(move || work(part))));
            work(0);
        });
    }
}

/// `GOMP_parallel(function, data, num_threads, flags)`: runs the function on every thread of a team.
type Parallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// GNU's OpenMP, which libtorch runs on under Linux.
struct OpenMp {
    parallel: Parallel,
}

impl OpenMp {
    /// Finds the library that libtorch has loaded; loads none.
    #[cfg(target_os = "linux")]
    fn find() -> Option<Self> {
        // SAFETY: both functions take strings that end in zero; the symbol has the type that the library documents.
        unsafe {
            let library = libc::dlopen(c"libgomp.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if library.is_null() {
                return None;
            }
            let parallel = libc::dlsym(library, c"GOMP_parallel".as_ptr());
            (!parallel.is_null()).then(|| Self { parallel: transmute::<*mut c_void, Parallel>(parallel) })
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn find() -> Option<Self> {
        None
    }

    fn share(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let job = Job { next: AtomicUsize::new(0), parts, work };
        // SAFETY: the call returns when all threads are done with the job, which outlives it.
        unsafe { (self.parallel)(run, (&raw const job).cast_mut().cast(), parts as c_uint, 0) }
    }
}

/// What the threads of a team take their parts from.
struct Job<'a> {
    next: AtomicUsize,
    parts: usize,
    work: &'a (dyn Fn(usize) + Sync),
}

unsafe extern "C" fn run(job: *mut c_void) {
    // SAFETY: `OpenMp::share` gives a job that lives until all threads are done.
    let job = unsafe { &*job.cast_const().cast::<Job>() };
    loop {
        let part = job.next.fetch_add(1, Ordering::Relaxed);
        if part >= job.parts {
            return;
        }
        (job.work)(part);
    }
}

const _: () = assert!(size_of::<c_int>() == 4);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for parts in [0, 1, 2, 7] {
            let done = Mutex::new(vec![0; parts]);
            share(parts, &|part| done.lock().unwrap()[part] += 1);
            assert_eq!(done.into_inner().unwrap(), vec![1; parts]);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn libtorchs_own_threads_are_found() {
        assert!(tch::get_num_threads() > 0); // libtorch is loaded
        assert!(OpenMp::find().is_some());
    }
}
