//! What the softmax of a row tells besides its loss.

use crate::cpu::mem::Dst;
use crate::error::{Error, Result, check_len};

/// What a cross-entropy writes about each row besides: one number a row, in buffers of f32 (`F`) and of i64 (`I`), where it is asked for.
/// Calls have it by methods of these names; it is for [`On::forward_report`](crate::On::forward_report) and
/// [`On::forward_backward_report`](crate::On::forward_backward_report).
#[derive(Clone, Copy, Debug)]
pub struct Report<F, I> {
    /// See [`Call::log_prob`](crate::Call::log_prob).
    pub log_prob: Option<F>,
    /// See [`Call::entropy`](crate::Call::entropy).
    pub entropy: Option<F>,
    /// See [`Call::lse`](crate::Call::lse).
    pub lse: Option<F>,
    /// See [`Call::hit`](crate::Call::hit).
    pub hit: Option<F>,
    /// See [`Call::argmax`](crate::Call::argmax).
    pub argmax: Option<I>,
}

impl<F, I> Default for Report<F, I> {
    fn default() -> Self {
        Report { log_prob: None, entropy: None, lse: None, hit: None, argmax: None }
    }
}

/// The length of a buffer.
type Len<B> = fn(&B) -> usize;

impl<F, I> Report<F, I> {
    fn floats(&self) -> [(&'static str, &Option<F>); 4] {
        [("log_prob", &self.log_prob), ("entropy", &self.entropy), ("lse", &self.lse), ("hit", &self.hit)]
    }

    /// The same of other buffers.
    pub(crate) fn of<A, B>(
        self,
        float: impl Fn(F) -> Result<A>,
        index: impl Fn(I) -> Result<B>,
    ) -> Result<Report<A, B>> {
        Ok(Report {
            log_prob: self.log_prob.map(&float).transpose()?,
            entropy: self.entropy.map(&float).transpose()?,
            lse: self.lse.map(&float).transpose()?,
            hit: self.hit.map(&float).transpose()?,
            argmax: self.argmax.map(index).transpose()?,
        })
    }

    pub(crate) fn is_asked_for(&self) -> bool {
        self.argmax.is_some() || self.floats().iter().any(|(_, asked)| asked.is_some())
    }

    /// Whether a loss of so many rows can give it; `lens` are those of the buffers.
    pub(crate) fn check(
        &self,
        (loss, takes): (&'static str, bool),
        indexed: bool,
        rows: usize,
        lens: (Len<F>, Len<I>),
    ) -> Result<()> {
        let unsupported = |what| Err(Error::Unsupported { loss, what });
        if self.is_asked_for() && !takes {
            return unsupported("a report of its rows");
        }
        if !indexed && (self.log_prob.is_some() || self.hit.is_some()) {
            return unsupported("the log-probability of a target that is no class");
        }
        for (what, asked) in self.floats() {
            asked.as_ref().map_or(Ok(()), |to| check_len(what, rows, lens.0(to)))?;
        }
        self.argmax.as_ref().map_or(Ok(()), |to| check_len("argmax", rows, lens.1(to)))
    }
}

/// On the CPU.
pub(crate) type HostReport<'a> = Report<Dst<'a, f32>, Dst<'a, i64>>;

/// Of one row.
#[derive(Clone, Copy)]
pub(crate) struct Reported {
    pub(crate) log_prob: f32,
    pub(crate) entropy: f32,
    pub(crate) lse: f32,
    /// -1 if there is none.
    pub(crate) argmax: i64,
    pub(crate) hit: bool,
}

impl Reported {
    /// Of a row that nobody looks at.
    pub(crate) const NOTHING: Reported = Reported { log_prob: 0.0, entropy: 0.0, lse: 0.0, argmax: -1, hit: false };
}

impl HostReport<'_> {
    /// Writes what row `r` has to say.
    ///
    /// # Safety
    /// The buffers have such a row, and it belongs to this task.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn put(&self, r: usize, row: &Reported) {
        let hit = if row.hit { 1.0 } else { 0.0 };
        let values = [row.log_prob, row.entropy, row.lse, hit];
        for ((_, to), x) in self.floats().into_iter().zip(values) {
            if let Some(to) = to {
                // SAFETY: the caller's promise.
                unsafe { to.set(r, x) };
            }
        }
        if let Some(to) = self.argmax {
            // SAFETY: as above.
            unsafe { to.set_index(r, row.argmax) };
        }
    }
}

/// The methods of a call that say what else it writes, into buffers of these types.
macro_rules! report_methods {
    ($float:ty, $index:ty) => {
        /// Also writes the log-probability of the target of each row here: that of the softmax, without smoothing, weights and z-loss.
        /// For class indices. 0 for a row that is ignored.
        pub fn log_prob(mut self, log_prob: $float) -> Self {
            self.report().log_prob = Some(log_prob.into());
            self
        }

        /// Also writes the entropy of the softmax of each row here, in nats. 0 for a row that is ignored.
        pub fn entropy(mut self, entropy: $float) -> Self {
            self.report().entropy = Some(entropy.into());
            self
        }

        /// Also writes the log-sum-exp of each row here. 0 for a row that is ignored.
        pub fn lse(mut self, lse: $float) -> Self {
            self.report().lse = Some(lse.into());
            self
        }

        /// Also writes 1 here for each row whose target is its [`argmax`](Self::argmax), and 0 for all others, ignored ones too: the sum
        /// over the number of rows that count is the top-1 accuracy. For class indices.
        pub fn hit(mut self, hit: $float) -> Self {
            self.report().hit = Some(hit.into());
            self
        }

        /// Also writes the class of the largest logit of each row here, the first of several. -1 for a row that is ignored, and for one
        /// whose softmax is NaN.
        pub fn argmax(mut self, argmax: $index) -> Self {
            self.report().argmax = Some(argmax.into());
            self
        }
    };
}
pub(crate) use report_methods;
