//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Communicator, ReduceOp};
use crate::error::{Error, Result};

/// A rank among threads of this process: for the CPU, and for tests. Collectives are deterministic: ranks are combined in their order.
///
/// A rank that is dropped, as it is when its thread panics, one whose call ends with an error of its own once ranks have agreed on it,
/// and one that does not come in time end the group: all others get [`Error::RankLost`], from the collective that they
/// are in and from every later one. Ranks that come with different lengths or operations all get [`Error::RanksDisagree`].
///
/// ```
/// use fused_loss::parallel::{Communicator, Local, ReduceOp};
///
/// let ranks = Local::group(3);
/// std::thread::scope(|scope| {
///     for rank in ranks {
///         scope.spawn(move || {
///             let mut data = [rank.rank() as f32, 1.0];
///             rank.all_reduce(&mut data, ReduceOp::Sum).unwrap();
///             assert_eq!(data, [3.0, 3.0]);
///         });
///     }
/// });
/// ```
#[derive(Debug)]
pub struct Local {
    rank: usize,
    timeout: Duration,
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

/// One collective at a time: ranks come until all are there, and then leave until all are gone.
#[derive(Debug)]
struct State {
    /// What each rank has brought.
    brought: Vec<Option<(Vec<f32>, ReduceOp)>>,
    /// What they get, while they leave.
    result: Option<Result<Vec<f32>>>,
    left: usize,
    /// Why there will be no further collective.
    lost: Option<Error>,
}

impl Local {
    /// So many ranks, in their order. They wait for one another for a minute.
    pub fn group(size: usize) -> Vec<Local> {
        Local::group_with_timeout(size, Duration::from_secs(60))
    }

    /// So many ranks, that wait for one another for so long.
    pub fn group_with_timeout(size: usize, timeout: Duration) -> Vec<Local> {
        let state = State { brought: vec![None; size], result: None, left: 0, lost: None };
        let group = Arc::new(Group { state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| Local { rank, timeout, group: group.clone() }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.group.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There will be no further collective, for this rank does not come.
    fn end(&self) {
        let mut state = self.lock();
        state.lost.get_or_insert(Error::RankLost { rank: self.rank });
        self.group.changed.notify_all();
    }

    /// Waits until `ready`, or until the group ends.
    fn wait<'s>(
        &self,
        mut state: MutexGuard<'s, State>,
        until: Instant,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'s, State>> {
        while !ready(&state) {
            if let Some(lost) = &state.lost {
                return Err(lost.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing = state.brought.iter().position(Option::is_none).unwrap_or(0);
                let lost = Error::RankLost { rank: missing };
                state.lost = Some(lost.clone());
                self.group.changed.notify_all();
                return Err(lost);
            }
            state = self.group.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }
}

impl State {
    /// What comes of what all have brought.
    fn reduce(&self) -> Result<Vec<f32>> {
        let mut all = self.brought.iter().flatten().enumerate();
        let Some((_, (first, op))) = all.next() else { return Ok(Vec::new()) };
        let mut result = first.clone();
        for (rank, (data, other)) in all {
            if (data.len(), other) != (first.len(), op) {
                return Err(Error::RanksDisagree { rank, expected: first.len(), got: data.len() });
            }
            for (x, &y) in result.iter_mut().zip(data) {
                *x = match op {
                    ReduceOp::Sum => *x + y,
                    // NaN is passed over.
                    ReduceOp::Max => x.max(y),
                };
            }
        }
        Ok(result)
    }
}

impl Communicator for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.lock().brought.len()
    }

    fn all_reduce(&self, data: &mut [f32], op: ReduceOp) -> Result<()> {
        let until = Instant::now() + self.timeout;
        // Whoever is still leaving the last one.
        let mut state = self.wait(self.lock(), until, |state| state.result.is_none())?;
        if let Some(lost) = &state.lost {
            return Err(lost.clone());
        }
        state.brought[self.rank] = Some((data.to_vec(), op));
        if state.brought.iter().all(Option::is_some) {
            state.result = Some(state.reduce());
            self.group.changed.notify_all();
        }
        let mut state = self.wait(state, until, |state| state.result.is_some())?;
        let result = state.result.clone().unwrap_or_else(|| Ok(Vec::new()));
        state.left += 1;
        if state.left == state.brought.len() {
            state.brought.fill(None);
            (state.result, state.left) = (None, 0);
            self.group.changed.notify_all();
        }
        data.copy_from_slice(&result?);
        Ok(())
    }

    fn leave(&self, _: &Error) {
        self.end();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}
