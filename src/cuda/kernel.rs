//! Which kernel a loss has, and what it takes. Each loss says so in one line at the end of its file.

use super::params::{self, KERAS_LABELS, NoParams, TermsParams};
use crate::cpu::elementwise::Pointwise;
use crate::cpu::region::{Activation, Region};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::sorted::Sorted;
use crate::loss::Refused;
use crate::third::ThirdOf;

/// A loss that has a kernel.
pub(crate) trait HasKernel {
    fn kernel(&self) -> Kernel;
}

/// The kernel of a loss with its options.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The loss, as errors name it.
    pub(super) loss: &'static str,
    /// The file of `kernels/`, without its ending.
    pub(super) file: &'static str,
    /// `fl_<name>_<dtype>`, perhaps with something between.
    pub(super) name: &'static str,
    /// The same of an element-wise loss whose call carries nothing more.
    pub(super) name_usual: &'static str,
    /// The same where targets are dense.
    pub(super) name_dense: &'static str,
    pub(super) family: Family,
    pub(super) params: Params,
    pub(super) ignore_index: Option<i64>,
    pub(super) flags: u32,
    pub(super) takes: Takes,
    /// Of a combined loss.
    pub(super) terms: Option<Terms>,
}

/// The terms of a combined loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) count: usize,
    /// Why they cannot be combined.
    pub(crate) refused: Option<Refused>,
}

/// What the launches of a loss are shaped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Elements,
    Rows,
    /// `together`: those of a sample, or of the batch, have one loss.
    Regions {
        softmax: bool,
        together: bool,
    },
    /// Regions whose errors are sorted. `present`: those without a foreground count for nothing.
    Sorted {
        softmax: bool,
        present: bool,
    },
}

/// What may be asked of a loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takes {
    pub(crate) index: bool,
    pub(crate) dense: bool,
    pub(super) class_weight: bool,
    pub(crate) grad_target: bool,
    pub(crate) third: Option<ThirdOf>,
    pub(super) grad_third: bool,
    /// The kernel that says what else the softmax of a row tells.
    pub(super) report: Option<&'static str>,
    /// Its rows have so many classes.
    pub(super) classes: Option<usize>,
    /// The mean over class indices divides by the class weights of the targets.
    pub(super) mean_by_class_weight: bool,
}

/// Words that the options of a loss take.
const MOST_WORDS: usize = 22;

impl Takes {
    const NOTHING: Takes = Takes {
        index: false,
        dense: false,
        class_weight: false,
        grad_target: false,
        third: None,
        grad_third: false,
        report: None,
        classes: None,
        mean_by_class_weight: false,
    };
}

/// The second argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    words: [u32; MOST_WORDS],
    len: usize,
}

/// A struct of `params.rs` that is the second argument of a kernel.
///
/// # Safety
/// It is made of `f32` and `u32` (and arrays and structs of them) alone, at most `MOST_WORDS` of them.
pub(crate) unsafe trait Words: Copy {}

macro_rules! words {
    ($($params:ident)*) => {$(
        // SAFETY: see its declaration; the size is checked here, and that there is no padding where it is declared.
        unsafe impl Words for params::$params {}
        const _: () = assert!(size_of::<params::$params>() <= 4 * MOST_WORDS && align_of::<params::$params>() == 4);
    )*};
}
words! {
    NoParams MseParams HuberParams SmoothL1Params QuantileParams PoissonNllParams GaussianNllParams MarginRankingParams DpoParams
    JsdParams BoxIouParams CosineEmbeddingParams TripletMarginParams BceParams BceWithLogitsParams HingeParams KlDivProbsParams
    SigmoidFocalParams GanTermParams CrossEntropyParams CombinedRowsParams CrossEntropyProbsParams SoftmaxFocalParams
    DistillationParams MultiMarginParams GradientPenaltyParams DiceParams TermsParams DiceCrossEntropyParams DiceFocalParams DiceLogitsParams HeadParams VocabParams SortParams
}

impl Params {
    pub(super) fn new<P: Words>(params: P) -> Self {
        let mut words = [0; MOST_WORDS];
        // SAFETY: `Words` says that these are whole words, and no more than that.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const params).cast::<u8>(), words.as_mut_ptr().cast(), size_of::<P>())
        };
        Params { words, len: size_of::<P>() }
    }

    /// The options of a loss that the user wrote, at most eight.
    fn floats(values: &[f32]) -> Self {
        let mut words = [0; MOST_WORDS];
        for (word, value) in words.iter_mut().zip(values) {
            *word = value.to_bits();
        }
        Params { words, len: 4 * values.len().max(1) }
    }

    /// No options.
    pub(super) fn none() -> Self {
        Params::new(NO_PARAMS)
    }

    /// For a launch, which copies it.
    #[cfg(feature = "cuda")]
    pub(super) fn as_mut_ptr(&mut self) -> *mut std::ffi::c_void {
        self.words.as_mut_ptr().cast()
    }

    /// As a launch takes it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: words are bytes, of which there are at least `len`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }
}

/// For losses without options.
pub(crate) const NO_PARAMS: NoParams = NoParams { unused: 0 };

impl Kernel {
    /// Its file.
    pub(crate) fn file(&self) -> &'static str {
        self.file
    }

    /// Of a loss of this name in a file, with the same kernel for all targets.
    fn new(loss: &'static str, file: &'static str, name: &'static str, family: Family, params: Params) -> Self {
        let (name_usual, name_dense, takes) = (name, name, Takes::NOTHING);
        let (ignore_index, flags, terms) = (None, 0, None);
        Kernel { loss, file, name, name_usual, name_dense, family, params, ignore_index, flags, takes, terms }
    }

    /// Of an element-wise loss.
    pub(crate) fn elements<F: Pointwise>(file: &'static str, name: &'static str, params: impl Words) -> Self {
        let takes = Takes {
            dense: F::TARGET,
            class_weight: F::CLASS_WEIGHT,
            grad_target: F::GRAD_TARGET,
            third: F::THIRD.then_some(ThirdOf::Elements),
            grad_third: F::GRAD_THIRD,
            ..Takes::NOTHING
        };
        Kernel { takes, ..Kernel::new(F::NAME, file, name, Family::Elements, Params::new(params)) }
    }

    /// Has another kernel for calls that carry nothing more.
    pub(crate) fn usual(self, name: &'static str) -> Self {
        Kernel { name_usual: name, ..self }
    }

    /// Has another kernel for dense targets, in the file of its name.
    pub(crate) fn dense(self, name: &'static str) -> Self {
        Kernel { name_dense: name, ..self }
    }

    /// Of a loss that the user wrote.
    pub(crate) fn custom(file: &'static str, loss: &'static str, options: &[f32]) -> Self {
        let takes = Takes { dense: true, ..Takes::NOTHING };
        Kernel { takes, ..Kernel::new(loss, file, file, Family::Elements, Params::floats(options)) }
    }

    /// The labels are 0 and 1 if a launch before this one finds no other.
    pub(crate) fn keras_labels(self, keras: bool) -> Self {
        Kernel { flags: if keras { KERAS_LABELS } else { 0 }, ..self }
    }

    /// Of a row-wise loss.
    pub(crate) fn rows<F: Rowwise>(loss: &F, file: &'static str, name: &'static str, params: impl Words) -> Self {
        let takes = Takes {
            index: F::INDEX,
            dense: F::DENSE,
            class_weight: F::CLASS_WEIGHT,
            grad_target: F::GRAD_TARGET,
            third: F::THIRD,
            grad_third: F::GRAD_THIRD,
            classes: F::CLASSES,
            mean_by_class_weight: F::MEAN_BY_CLASS_WEIGHT,
            ..Takes::NOTHING
        };
        let kernel = Kernel::new(F::NAME, file, name, Family::Rows, Params::new(params));
        Kernel { takes, ignore_index: loss.ignore_index(), ..kernel }
    }

    /// This kernel reports. Its file has its name.
    pub(crate) fn with_report(self, name: &'static str) -> Self {
        Kernel { takes: Takes { report: Some(name), ..self.takes }, ..self }
    }

    /// This kernel has terms.
    pub(crate) fn with_terms(self, terms: Terms) -> Self {
        Kernel { terms: Some(terms), ..self }
    }

    /// Of a region loss.
    pub(crate) fn regions(region: &Region) -> Self {
        let (name, softmax) = match region.activation {
            Activation::None => ("region_none", false),
            Activation::Sigmoid => ("region_sigmoid", false),
            Activation::Softmax => ("region_softmax", true),
        };
        let batch = if region.batch { params::BATCH } else { 0 };
        let background = if region.include_background { 0 } else { params::NO_BACKGROUND };
        let together = region.params.together != 0;
        let takes = Takes { index: true, dense: true, class_weight: !together, ..Takes::NOTHING };
        let params = Params::new(region.params);
        let kernel = Kernel::new(region.name, name, name, Family::Regions { softmax, together }, params);
        Kernel { flags: batch | background, takes, ..kernel }
    }

    /// Of a loss of sorted errors.
    pub(crate) fn sorted(sorted: &Sorted) -> Self {
        let family = Family::Sorted { softmax: sorted.softmax, present: sorted.present };
        let takes = Takes { index: sorted.softmax, dense: !sorted.softmax, ..Takes::NOTHING };
        let kernel = Kernel::new(sorted.name, "lovasz", "lovasz", family, Params::none());
        let flags = if sorted.batch { params::BATCH } else { 0 };
        Kernel { flags, takes, ignore_index: sorted.ignore_index, ..kernel }
    }

    /// The same with another loss beside it.
    pub(crate) fn beside(self, name: &'static str, class_weight: bool, params: impl Words, terms: Terms) -> Self {
        let (params, takes) = (Params::new(params), Takes { class_weight, ..self.takes });
        Kernel { file: name, name, name_dense: name, params, takes, terms: Some(terms), ..self }
    }

    /// The same of class indices alone.
    pub(crate) fn of_indices(self) -> Self {
        Kernel { takes: Takes { dense: false, ..self.takes }, ..self }
    }

    /// Of a sum of element-wise losses.
    pub(crate) fn combined(
        loss: &'static str,
        params: TermsParams,
        terms: Terms,
        class_weight: bool,
        grad_target: bool,
    ) -> Self {
        let takes = Takes { dense: true, class_weight, grad_target, ..Takes::NOTHING };
        let kernel = Kernel::new(loss, "combined", "combined", Family::Elements, Params::new(params));
        Kernel { takes, terms: Some(terms), ..kernel }
    }

    /// The kinds of the terms of a sum of element-wise losses.
    pub(super) fn kinds(&self) -> Option<&[u32]> {
        let Terms { count, .. } = self.terms.filter(|_| self.family == Family::Elements)?;
        self.params.words.get(..count) // `TermsParams` begins with them
    }

    /// The options of an element-wise loss as a term of a sum has them, unless it takes a launch of its own before.
    pub(crate) fn as_term(&self) -> Option<[f32; 3]> {
        let options = std::array::from_fn(|i| f32::from_bits(self.params.words[i]));
        (self.flags & KERAS_LABELS == 0).then_some(options)
    }
}

/// What a loss is a loss of, for doors that know the shapes of their tensors.
#[cfg(any(feature = "candle", feature = "burn"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Losses {
    Elements,
    Rows,
    /// Of `classes - left_out` channels, of each sample or of the whole batch.
    Regions {
        batch: bool,
        left_out: usize,
        /// One loss of all of them.
        together: bool,
    },
}

#[cfg(any(feature = "candle", feature = "burn"))]
impl Kernel {
    pub(crate) fn losses(&self) -> Losses {
        match self.family {
            Family::Elements => Losses::Elements,
            Family::Rows => Losses::Rows,
            Family::Sorted { .. } => {
                Losses::Regions { together: false, batch: self.flags & params::BATCH != 0, left_out: 0 }
            }
            Family::Regions { together, .. } => Losses::Regions {
                together,
                batch: self.flags & params::BATCH != 0,
                left_out: usize::from(self.flags & params::NO_BACKGROUND != 0),
            },
        }
    }

    pub(crate) fn takes(&self) -> Takes {
        self.takes
    }
}

/// Says which kernel a loss has.
macro_rules! kernel {
    ($loss:ty, |$l:ident| $kernel:expr) => {
        impl $crate::cuda::kernel::HasKernel for $loss {
            fn kernel(&self) -> $crate::cuda::kernel::Kernel {
                #[allow(unused_imports)]
                use $crate::cuda::kernel::{Kernel, NO_PARAMS};
                let $l = self;
                $kernel
            }
        }
    };
}
pub(crate) use kernel;
