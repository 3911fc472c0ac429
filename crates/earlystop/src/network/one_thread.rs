//! libtorch on a single thread.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Keeps libtorch to a single thread, the one that this was made on, until it is dropped. Other threads keep theirs.
///
/// libtorch cuts sums and convolutions by its number of threads, and so the bits of its results depend on it. What it computes for
/// a network is little: the rest runs on our kernels, which share their work among as many [`threads`](Self::threads) as libtorch
/// would, in a way that changes no bit.
pub(crate) struct OneThread {
    threads: i32,
    /// What MKL had for this thread alone: 0 is nothing.
    mkl: c_int,
    /// libtorch counts threads for each thread that calls it.
    here: PhantomData<*const ()>,
}

impl OneThread {
    pub(crate) fn begin() -> Self {
        let threads = tch::get_num_threads(); // the first call on a thread sets it, too
        let mkl = if threads > 1 { set_threads(1, 1) } else { 0 };
        Self { threads, mkl, here: PhantomData }
    }

    /// Returns libtorch's number of threads before.
    pub(crate) fn threads(&self) -> usize {
        self.threads.max(1) as usize
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        if self.threads > 1 {
            set_threads(self.threads, self.mkl);
        }
    }
}

/// Sets the number of threads of libtorch, and that of MKL, which it uses; returns what MKL had.
fn set_threads(threads: i32, mkl: c_int) -> c_int {
    static SETTERS: OnceLock<Option<Setters>> = OnceLock::new();
    match SETTERS.get_or_init(Setters::find) {
        // SAFETY: both functions take any positive number, and MKL's 0 as well, on any thread.
        Some(setters) => unsafe {
            (setters.openmp)(threads);
            setters.mkl.map_or(0, |set| set(mkl))
        },
        // It also sets the number for threads that have not called libtorch yet.
        None => {
            tch::set_num_threads(threads);
            0
        }
    }
}

/// What sets the number of threads for the calling thread alone.
struct Setters {
    /// `void omp_set_num_threads(int)`
    openmp: unsafe extern "C" fn(c_int),
    /// `int MKL_Set_Num_Threads_Local(int)`
    mkl: Option<unsafe extern "C" fn(c_int) -> c_int>,
}

impl Setters {
    #[cfg(target_os = "linux")]
    fn find() -> Option<Self> {
        let openmp = symbol(c"libgomp.so.1", c"omp_set_num_threads")?;
        let mkl = symbol(c"libtorch_cpu.so", c"MKL_Set_Num_Threads_Local");
        // SAFETY: the functions have the types that the libraries document, and a pointer to a function is as large as one to data.
        unsafe {
            Some(Self {
                openmp: std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn(c_int)>(openmp),
                mkl: mkl.map(|mkl| std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn(c_int) -> c_int>(mkl)),
            })
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn find() -> Option<Self> {
        None
    }
}

/// Finds a function in a library that libtorch has loaded; loads none.
#[cfg(target_os = "linux")]
fn symbol(library: &std::ffi::CStr, name: &std::ffi::CStr) -> Option<*mut libc::c_void> {
    // SAFETY: both functions take strings that end in zero. The library stays loaded: its handle is never closed.
    unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        let symbol = libc::dlsym(library, name.as_ptr());
        (!symbol.is_null()).then_some(symbol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn libtorchs_own_threads_are_found() {
        assert!(tch::get_num_threads() > 0); // libtorch is loaded
        assert!(Setters::find().is_some_and(|setters| setters.mkl.is_some()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn libtorch_has_one_thread_here_and_its_own_elsewhere() {
        let run = || {
            let _ = tch::get_num_threads();
            tch::set_num_threads(3);
            let one = OneThread::begin();
            assert_eq!((tch::get_num_threads(), one.threads()), (1, 3));
            // Threads that call libtorch for the first time have as many as ever; other tests may set another number, but not 1.
            assert!(std::thread::spawn(tch::get_num_threads).join().unwrap() > 1);
            {
                let inner = OneThread::begin();
                assert_eq!((tch::get_num_threads(), inner.threads()), (1, 1));
            }
            assert_eq!(tch::get_num_threads(), 1);
            drop(one);
            assert_eq!(tch::get_num_threads(), 3);
        };
        std::thread::spawn(run).join().unwrap();
    }
}
