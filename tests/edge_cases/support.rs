//! What the tests of edge cases, bad input and determinism share: seeded data, and every loss behind
//! one signature.
#![allow(dead_code, unused_macros)] // each uses its part

use fused_loss::*;

#[path = "losses.rs"]
mod table;

pub use table::*;

/// SplitMix64: seeded, so that a failure comes back.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.next() >> 40) as f32 / (1 << 24) as f32)
    }

    pub fn pick<X: Copy>(&mut self, from: &[X]) -> X {
        from[self.below(from.len())]
    }

    pub fn floats(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        (0..n).map(|_| self.between(low, high)).collect()
    }

    /// A random order of `0..n`.
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        (1..n).rev().for_each(|i| order.swap(i, self.below(i + 1)));
        order
    }
}

/// What a number may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Domain {
    Real,
    Probability,
    LogProbability,
    Binary,
    Signed,
    /// Of boxes: the first two numbers of a row are below zero, the last two above.
    Corner,
    /// Class indices, one a row.
    Index,
    Nothing,
}

impl Domain {
    pub fn draw(self, random: &mut Random) -> f32 {
        match self {
            Domain::Probability => random.between(0.05, 0.95),
            Domain::LogProbability => random.between(-4.0, -0.05),
            Domain::Binary => random.pick(&[0.0, 1.0]),
            Domain::Signed => random.pick(&[-1.0, 1.0]),
            _ => random.between(-4.0, 4.0),
        }
    }
}

/// Owned targets.
#[derive(Clone, Debug)]
pub enum Labels<T> {
    Nothing,
    Dense(Vec<T>),
    Index(Vec<i64>),
}

impl<T: Element> Labels<T> {
    pub fn view(&self) -> Target<'_, T> {
        match self {
            Labels::Nothing => Target::Nothing,
            Labels::Dense(t) => Target::Dense(t),
            Labels::Index(t) => Target::I64(t),
        }
    }
}

/// Input and targets of `[outer, classes, inner]`.
#[derive(Clone, Debug)]
pub struct Data<T> {
    pub dims: [usize; 3],
    pub input: Vec<T>,
    pub target: Labels<T>,
}

impl<T: Element> Data<T> {
    pub fn job<'a>(&'a self, verb: Verb<'a, T>) -> Job<'a, T> {
        Job::new(&self.input, self.target.view(), self.dims.into(), verb)
    }
}

/// What a call is told to do, and where it writes.
pub enum Verb<'a, T> {
    Forward(Reduction),
    ForwardBackward(Reduction, &'a mut [T]),
    /// The buffer is the input.
    InPlace(Reduction, &'a mut [T]),
    Unreduced(&'a mut [f32]),
    /// Upstream gradients, losses, gradients.
    UnreducedBackward(&'a [f32], &'a mut [f32], &'a mut [T]),
    UnreducedInPlace(&'a [f32], &'a mut [f32], &'a mut [T]),
}

/// One call of any loss.
pub struct Job<'a, T> {
    pub input: &'a [T],
    pub target: Target<'a, T>,
    pub shape: Shape,
    pub weight: Option<&'a [f32]>,
    pub sample_weight: Option<&'a [f32]>,
    pub class_weight: Option<&'a [f32]>,
    pub grad_output: f32,
    pub accumulate: bool,
    pub grad_target: Option<&'a mut [T]>,
    pub verb: Verb<'a, T>,
}

impl<'a, T: Element> Job<'a, T> {
    pub fn new(input: &'a [T], target: Target<'a, T>, shape: Shape, verb: Verb<'a, T>) -> Self {
        let (weight, sample_weight, class_weight, grad_target) = (None, None, None, None);
        let (grad_output, accumulate) = (1.0, false);
        Job { input, target, shape, weight, sample_weight, class_weight, grad_output, accumulate, grad_target, verb }
    }

    /// The targets of an element-wise loss, which has them as a slice.
    pub fn dense(&self) -> &'a [T] {
        let Target::Dense(target) = self.target else { panic!("element-wise losses have dense targets") };
        target
    }

    /// Runs one of the two calls, the second of them in place.
    pub fn run<L: Loss>(
        self,
        call: impl FnOnce(&Self) -> Call<'a, L, T>,
        in_place: impl FnOnce(&Self, &'a mut [T]) -> Call<'a, L, T, &'a mut [T]>,
    ) -> Result<f32> {
        fn add<'a, L: Loss, T: Element, I>(
            job: Job<'a, T>,
            mut call: Call<'a, L, T, I>,
        ) -> (Call<'a, L, T, I>, Verb<'a, T>) {
            if let Some(w) = job.weight {
                call = call.weight(w);
            }
            if let Some(w) = job.sample_weight {
                call = call.sample_weight(w);
            }
            if let Some(w) = job.class_weight {
                call = call.class_weight(w);
            }
            if job.accumulate {
                call = call.accumulate();
            }
            if let Some(grad) = job.grad_target {
                call = call.grad_target(grad);
            }
            (call.grad_output(job.grad_output), job.verb)
        }
        let mut job = self;
        match job.verb {
            Verb::InPlace(reduction, buffer) => {
                job.verb = Verb::Forward(reduction);
                let call = in_place(&job, buffer);
                add(job, call).0.forward_backward(reduction)
            }
            Verb::UnreducedInPlace(upstream, losses, buffer) => {
                job.verb = Verb::Forward(Reduction::Sum);
                let call = in_place(&job, buffer);
                add(job, call).0.forward_backward_unreduced(upstream, losses).map(|()| 0.0)
            }
            _ => {
                let call = call(&job);
                let (call, verb) = add(job, call);
                match verb {
                    Verb::Forward(reduction) => call.forward(reduction),
                    Verb::ForwardBackward(reduction, grad) => call.forward_backward(reduction, grad),
                    Verb::Unreduced(losses) => call.forward_unreduced(losses).map(|()| 0.0),
                    Verb::UnreducedBackward(upstream, losses, grad) => {
                        call.forward_backward_unreduced(upstream, losses, grad).map(|()| 0.0)
                    }
                    Verb::InPlace(..) | Verb::UnreducedInPlace(..) => unreachable!("both are above"),
                }
            }
        }
    }
}

/// Runs `data` from and into buffers `offset` elements away from where they were allocated, with canaries around the
/// gradient.
pub fn misaligned<T: Element>(loss: &AnyLoss<T>, data: &Data<T>, offset: usize) -> (f32, Vec<T>) {
    let n = data.input.len();
    let shift = |x: &[T]| [&vec![T::from_f32(-77.0); offset][..], x].concat();
    let input = shift(&data.input);
    let target = match &data.target {
        Labels::Dense(t) => shift(t),
        _ => vec![],
    };
    let view = match &data.target {
        Labels::Dense(_) => Target::Dense(&target[offset..]),
        other => other.view(),
    };
    let canary = T::from_f32(123.0);
    let mut grad = vec![canary; n + 40];
    let job = Job::new(
        &input[offset..],
        view,
        data.dims.into(),
        Verb::ForwardBackward(Reduction::Sum, &mut grad[offset..offset + n]),
    );
    let value = (loss.run)(job).unwrap();
    let (before, after) = (&grad[..offset], &grad[offset + n..]);
    assert!(before.iter().chain(after).all(|c| c.to_f32() == 123.0), "{}: wrote outside", loss.name);
    (value, grad[offset..offset + n].to_vec())
}

/// Runs a generic test on every storage type.
macro_rules! every_dtype {
    ($test:ident) => {{
        $test::<f32>();
        $test::<half::f16>();
        $test::<half::bf16>();
    }};
}

pub fn to<T: Element>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::from_f32(x)).collect()
}

pub fn from<T: Element>(x: &[T]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Whether this is `tests/by_kernels.rs`, where calls go to CUDA kernels, perhaps executed on the host.
pub const BY_KERNELS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"by_kernels");

/// How often to do what is done `n` times on the CPU: kernels that are executed on the host take their time.
pub fn times(n: usize) -> usize {
    if BY_KERNELS { n.div_ceil(10) } else { n }
}

/// The same bits, where it takes the same order of additions. The CPU's does not depend on where in memory a row or region begins;
/// that of a kernel, whose threads take packs of 16 bytes, does.
#[track_caller]
pub fn same_bits<T: Element>(what: &str, got: &[T], want: &[T]) {
    if BY_KERNELS {
        same(what, got, want, 1.0);
    } else {
        assert!(bits(got) == bits(want), "{what}: expected {want:?}, got {got:?}");
    }
}

/// Bit patterns, which tell -0 from 0 and NaN from nothing.
pub fn bits<T: Element>(x: &[T]) -> Vec<u32> {
    x.iter().map(|x| x.to_f32().to_bits()).collect()
}

/// Equal within a share of the wanted number, or of 1 if that is smaller.
#[track_caller]
pub fn close(what: &str, got: f32, want: f64, tolerance: f64) {
    let error = (f64::from(got) - want).abs();
    assert!(error <= tolerance * want.abs().max(1.0), "{what}: expected {want}, got {got}");
}

/// Gradients equal but for rounding, as a share of the largest.
#[track_caller]
pub fn same<T: Element>(what: &str, got: &[T], want: &[T], factor: f64) {
    same_but_for(what, got, want, factor, 1e-7);
}

/// The same where gradients are what is left of numbers whose rounding is this.
#[track_caller]
pub fn same_but_for<T: Element>(what: &str, got: &[T], want: &[T], factor: f64, noise: f64) {
    let want: Vec<f64> = want.iter().map(|w| factor * f64::from(w.to_f32())).collect();
    let largest = want.iter().fold(0f64, |a, w| a.max(w.abs()));
    let rounding = match T::NAME {
        "float32" => 1e-6,
        "float16" => 2e-3,
        _ => 2e-2,
    };
    for (got, want) in got.iter().zip(want) {
        let got = f64::from(got.to_f32());
        assert!((got - want).abs() <= rounding * largest + noise, "{what}: expected {want}, got {got}");
    }
}
