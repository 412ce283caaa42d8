//! The threads that share a call: rayon's, which a fork does not take along.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process whose threads rayon's global pool has; 0 before there are any.
static FIRST: AtomicU32 = AtomicU32::new(0);
/// The pool of the forked process of this number.
static OWN: Mutex<Option<(u32, &'static ThreadPool)>> = Mutex::new(None);

/// Runs what uses rayon. In a child of the process that did so first the global pool has no threads, and whoever waits for it waits
/// forever: a child gets a pool of its own. Results do not depend on it.
pub(crate) fn shared<R: Send>(task: impl FnOnce() -> R + Send) -> R {
    let process = std::process::id();
    let first = FIRST.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|first| first);
    // A pool that the caller has made is there.
    if first == process || first == 0 || rayon::current_thread_index().is_some() {
        task()
    } else {
        own(process).install(task)
    }
}

fn own(process: u32) -> &'static ThreadPool {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    match *own {
        Some((of, pool)) if of == process => pool,
        _ => {
            // Never dropped, as the global one is not: its threads would be waited for.
            let alone = || ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
            let pool = ThreadPoolBuilder::new().build().or_else(|_| alone());
            let pool: &'static ThreadPool =
                Box::leak(Box::new(pool.expect("a pool of this very thread takes nothing")));
            *own = Some((process, pool));
            pool
        }
    }
}
