//! Calls that are not of one input and one target, and so not in the case table: classes that ranks share, and what goes through the head.
//! On the CPU. (`cargo bench --features head --bench head -- cuda` times the head on a GPU, beside cuBLAS.)

use std::hint::black_box;
use std::time::Instant;

use fused_loss::parallel::{Local, Vocab};
use fused_loss::{CrossEntropy, Element, Reduction, Result as LossResult};

use super::{Dtype, Timed, Turn, memory};

/// Such a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Cross-entropy whose classes two threads share.
    Ranks,
    /// Tokens, hidden numbers, classes.
    Head,
    /// Pairs, hidden numbers.
    InfoNce,
}

impl Beyond {
    /// Those that are compiled.
    pub const ALL: &'static [Beyond] =
        if cfg!(feature = "head") { &[Beyond::Ranks, Beyond::Head, Beyond::InfoNce] } else { &[Beyond::Ranks] };

    pub fn name(self) -> &'static str {
        match self {
            Beyond::Ranks => "cross_entropy_across[ranks=2]",
            Beyond::Head => "linear_cross_entropy",
            Beyond::InfoNce => "info_nce",
        }
    }

    pub fn shape(self) -> &'static [usize] {
        match self {
            Beyond::Ranks => &[2048, 8192],
            Beyond::Head => &[512, 512, 8192],
            Beyond::InfoNce => &[1024, 256],
        }
    }

    /// Numbers that are read, of which each gets a gradient, and class indices.
    fn inputs_and_targets(self) -> (usize, usize) {
        match (self, self.shape()) {
            (Beyond::Ranks, shape) => (shape[0] * shape[1], shape[0]),
            (Beyond::Head, shape) => ((shape[0] + shape[2]) * shape[1], shape[0]),
            (Beyond::InfoNce, shape) => (2 * shape[0] * shape[1], 0),
        }
    }

    /// The fewest bytes that value and gradients can move. The head's are few beside its products, which take nearly all of its time.
    pub fn fewest_bytes(self, each: usize) -> usize {
        // The gradient of the head's weight is f32 whatever the weight is.
        let wider = if self == Beyond::Head { (4 - each) * self.shape()[1] * self.shape()[2] } else { 0 };
        self.copy_bytes(each) + wider + self.inputs_and_targets().1 * size_of::<i64>()
    }

    pub fn copy_bytes(self, each: usize) -> usize {
        2 * self.inputs_and_targets().0 * each
    }

    pub fn open(self, dtype: Dtype) -> Result<Box<dyn Timed>, String> {
        match dtype {
            Dtype::F32 => self.open_as::<f32>(),
            Dtype::F16 => self.open_as::<half::f16>(),
            Dtype::Bf16 => self.open_as::<half::bf16>(),
        }
    }

    fn open_as<T: Element>(self) -> Result<Box<dyn Timed>, String> {
        let mut state = 1u64;
        let mut numbers = |n: usize, size: f32| -> Vec<T> {
            let number = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                T::from_f32(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * size)
            };
            (0..n).map(number).collect()
        };
        let (inputs, _) = self.inputs_and_targets();
        let call: Box<dyn FnMut() -> LossResult<f32>> = match self {
            Beyond::Ranks => ranks(self.shape(), &numbers(inputs, 8.0))?,
            #[cfg(feature = "head")]
            Beyond::Head => head(self.shape(), &mut numbers),
            #[cfg(feature = "head")]
            Beyond::InfoNce => info_nce(self.shape(), &mut numbers),
            #[cfg(not(feature = "head"))]
            Beyond::Head | Beyond::InfoNce => return Err(format!("{} wants the feature head", self.name())),
        };
        let (from, to) = (numbers(inputs, 1.0), vec![T::default(); inputs]);
        Ok(Box::new(Calls { call, from, to }))
    }
}

fn class_of(row: usize, classes: usize) -> i64 {
    (row * 31 % classes) as i64
}

/// Threads, and their agreement on who has which classes, are part of a call: they take some ten microseconds of it.
fn ranks<T: Element>(shape: &[usize], logits: &[T]) -> Result<Box<dyn FnMut() -> LossResult<f32>>, String> {
    let (rows, classes, half) = (shape[0], shape[1], shape[1] / 2);
    let target: Vec<i64> = (0..rows).map(|row| class_of(row, classes)).collect();
    let of_whole = CrossEntropy::new().forward(logits, &target, (rows, classes), Reduction::Mean);
    let of_whole = of_whole.map_err(|error| error.to_string())?;
    let part = |rank: usize| -> Vec<T> {
        logits.chunks_exact(classes).flat_map(|row| &row[rank * half..][..half]).copied().collect()
    };
    let mut parts = [(part(0), vec![T::default(); rows * half]), (part(1), vec![T::default(); rows * half])];
    let group = Local::group(2);
    let mut call = move || {
        std::thread::scope(|scope| {
            let of_rank = |(rank, (logits, grad)): (&'_ Local, &'_ mut (Vec<T>, Vec<T>))| {
                let vocab = Vocab::new(rank, half)?;
                CrossEntropy::new().across(&vocab).call(logits, &target).forward_backward(Reduction::Mean, grad)
            };
            let ranks: Vec<_> = group.iter().zip(&mut parts).map(|each| scope.spawn(move || of_rank(each))).collect();
            let values: Vec<_> = ranks.into_iter().map(|rank| rank.join().expect("a rank that ends well")).collect();
            values.into_iter().next().expect("there are two")
        })
    };
    let value = call().map_err(|error| error.to_string())?;
    if (value - of_whole).abs() > 1e-6 * of_whole {
        return Err(format!("ranks: {value} where one device says {of_whole}"));
    }
    Ok(Box::new(call))
}

#[cfg(feature = "head")]
fn head<T: Element>(
    shape: &[usize],
    numbers: &mut dyn FnMut(usize, f32) -> Vec<T>,
) -> Box<dyn FnMut() -> LossResult<f32>> {
    use fused_loss::head::{LinearCrossEntropy, LinearGrads};

    let (tokens, hidden, classes) = (shape[0], shape[1], shape[2]);
    let (input, weight) = (numbers(tokens * hidden, 1.0), numbers(classes * hidden, 0.5));
    let target: Vec<i64> = (0..tokens).map(|token| class_of(token, classes)).collect();
    let (mut of_input, mut of_weight) = (vec![T::default(); input.len()], vec![0.0; weight.len()]);
    Box::new(move || {
        let call =
            LinearCrossEntropy::new(CrossEntropy::new()).call(&input, &weight, &target, (tokens, hidden, classes));
        let grads = LinearGrads { input: Some(&mut of_input), weight: Some(&mut of_weight), bias: None };
        call.forward_backward(Reduction::Mean, grads)
    })
}

#[cfg(feature = "head")]
fn info_nce<T: Element>(
    shape: &[usize],
    numbers: &mut dyn FnMut(usize, f32) -> Vec<T>,
) -> Box<dyn FnMut() -> LossResult<f32>> {
    use fused_loss::head::{InfoNce, InfoNceGrads};

    let (pairs, hidden) = (shape[0], shape[1]);
    let [x, y] = [(); 2].map(|()| numbers(pairs * hidden, 0.2));
    let [mut of_x, mut of_y] = [(); 2].map(|()| vec![T::default(); pairs * hidden]);
    Box::new(move || {
        let mut of_scale = 0.0;
        let grads = InfoNceGrads { first: Some(&mut of_x), second: Some(&mut of_y), scale: Some(&mut of_scale) };
        InfoNce::new().call(&x, &y, (pairs, hidden)).scale(20.0).forward_backward(grads)
    })
}

/// A call with its buffers, and a copy of as many numbers as it reads.
struct Calls<T> {
    call: Box<dyn FnMut() -> LossResult<f32>>,
    from: Vec<T>,
    to: Vec<T>,
}

impl<T: Element> Timed for Calls<T> {
    fn turns(&mut self, turns: usize) -> Result<Vec<Turn>, String> {
        let turn = |_| {
            let started = Instant::now();
            black_box((self.call)().map_err(|error| error.to_string())?);
            let loss = started.elapsed();
            let started = Instant::now();
            super::cpu::copy(&self.from, &mut self.to);
            Ok(Turn { loss, copy: started.elapsed() })
        };
        (0..turns).map(turn).collect()
    }

    fn memory(&mut self) -> Result<usize, String> {
        memory::of_a_call(|| (self.call)().map(drop).map_err(|error| error.to_string()))
    }

    fn launches(&self) -> Option<usize> {
        None
    }
}
