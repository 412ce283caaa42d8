use std::fmt;

use crate::call::{AnyRequest, Loss, Run, elementwise_methods, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::cuda::custom::{Definition, define};
use crate::error::{Error, Result};

/// The most options of a [`Custom`] loss.
const MOST: usize = 8;

/// A loss of your own, of elements: its value and gradient at one element, once in Rust and, for GPUs, once in CUDA C++. Everything
/// else is that of the losses of this crate: one pass, f32, f16 and bf16, reductions, weights, upstream gradients, accumulation,
/// unreduced values, [`Device`](crate::Device)s, tensors.
///
/// The expectile loss is the squared error, weighted by `tau` where the prediction is too low and by `1 - tau` where it is too high:
///
/// ```
/// use fused_loss::{Custom, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let expectile = Custom::new("expectile", [("tau", 0.5)], |x, t, [tau]| {
///     let e = x - t;
///     let w = if e > 0.0 { 1.0 - tau } else { tau };
///     (w * e * e, 2.0 * w * e)
/// })?
/// .cuda(
///     "const float e = x - t;
///      const float w = e > 0.0f ? 1.0f - tau : tau;
///      value = w * e * e;
///      grad = 2.0f * w * e;",
/// );
/// let mut grad = [0.0; 2];
/// let high = expectile.option("tau", 0.9)?;
/// let loss = high.forward_backward(&[1.0, -1.0], &[0.0; 2], Reduction::Sum, &mut grad)?;
/// assert!((loss - 1.0).abs() < 1e-6 && (grad[0] - 0.2).abs() < 1e-6 && grad[1] == -1.8);
/// # Ok(()) }
/// ```
///
/// | | |
/// |---|---|
/// | value, gradient | what the formula says of input `x`, target `t` and the options, in f32 |
/// | shapes | input and target of equal length |
/// | options | up to eight f32, by name; [`option`](Self::option) changes one |
/// | not there | a gradient for the targets; class weights |
///
/// **In Rust** the formula is a function or a closure without state, called for each element. It is compiled for every instruction set,
/// like those of this crate, and becomes vectors where LLVM can make them: of arithmetic, `abs`, `sqrt`, comparisons, `if` between
/// numbers, and the functions of [`math`](crate::math). The standard library's `exp` or `ln` are calls, an element at a time.
///
/// **In CUDA** the text is the body of a function. It reads `x`, `t` and the options by their names, and assigns to `value` and `grad`,
/// which are NaN if it does not. It is CUDA C++, with the functions of [`math`](crate::math) as `fl::exp`, `fl::softplus`,
/// `fl::logistic` and so on. Products and sums are not contracted, so that the same formula rounds alike in Rust.
///
/// The text is compiled by NVRTC when the loss is first called on a GPU: half a second, once, for it is kept in memory and on the disk
/// (`FUSED_LOSS_CACHE`, else `fused-loss` in `XDG_CACHE_HOME` or `~/.cache`; delete it whenever you like, and set it empty to keep
/// nothing). NVRTC is a library, `libnvrtc`, of CUDA, of PyTorch, or of `pip install nvidia-cuda-nvrtc`; it is looked for by its name
/// (so `LD_LIBRARY_PATH` helps), in `CUDA_HOME`, and in the active Python environment. Errors: [`Error::Compile`] with what NVRTC says
/// of the text, by its own line numbers; [`Error::NoNvrtc`]; [`Error::Custom`] where there is no text.
///
/// A loss is a small `Copy` value. What it is defined by, the closure and the text, is kept until the program ends: define it once,
/// not in every step, and set options.
#[derive(Clone, Copy)]
pub struct Custom {
    name: &'static str,
    cpu: &'static dyn OnCpu,
    cuda: &'static Definition,
    /// Those after the last have an empty name.
    options: [(&'static str, f32); MOST],
}

impl Custom {
    /// A loss with this name, these options (up to eight, with their defaults) and this formula, which takes input, target and the
    /// options' values, and returns value and gradient.
    ///
    /// The name is for messages: one line without quotes and backslashes. Options are named as C variables are, and not `x`, `t`, `value`
    /// or `grad`.
    pub fn new<const N: usize, F>(name: &'static str, options: [(&'static str, f32); N], formula: F) -> Result<Self>
    where
        F: Fn(f32, f32, [f32; N]) -> (f32, f32) + Copy + Send + Sync + 'static,
    {
        const { assert!(N <= MOST, "a custom loss has at most eight options") };
        let refused = |problem| Err(Error::Custom { loss: name, problem });
        if name.is_empty() || name.contains(['"', '\\']) || name.contains(char::is_control) {
            return refused("its name must be one line without quotes and backslashes".to_string());
        }
        for (i, (option, _)) in options.iter().enumerate() {
            let word = option.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !word || option.is_empty() || option.starts_with(|c: char| c.is_ascii_digit()) {
                return refused(format!("`{option}` cannot be the name of an option: it must be one of a C variable"));
            }
            if ["x", "t", "value", "grad"].contains(option) || options[..i].iter().any(|(other, _)| other == option) {
                return refused(format!("the name `{option}` of an option is taken"));
            }
        }
        let mut all = [("", 0.0); MOST];
        all[..N].copy_from_slice(&options);
        let cuda = define(name, &[], None);
        Ok(Custom { name, cpu: Box::leak(Box::new(Formula(formula))), cuda, options: all })
    }

    /// The same formula in CUDA C++, for GPUs. It is compiled when it is first called there.
    pub fn cuda(mut self, text: &str) -> Self {
        let names: Vec<&str> = self.named().iter().map(|(name, _)| *name).collect();
        self.cuda = define(self.name, &names, Some(text));
        self
    }

    /// Sets an option.
    pub fn option(mut self, name: &str, value: f32) -> Result<Self> {
        match self.options.iter_mut().find(|(option, _)| *option == name && !name.is_empty()) {
            Some((_, option)) => *option = value,
            None => return Err(Error::Custom { loss: self.name, problem: format!("it has no option `{name}`") }),
        }
        Ok(self)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The PTX of its kernels for a virtual architecture, such as 75 or 90: needs NVRTC and no GPU, so that a test of yours can show that
    /// the text compiles.
    #[cfg(feature = "cuda")]
    pub fn ptx(&self, capability: u32) -> Result<String> {
        crate::cuda::ptx(self.cuda.file, capability)
    }

    /// The options that there are.
    fn named(&self) -> &[(&'static str, f32)] {
        let n = self.options.iter().position(|(name, _)| name.is_empty()).unwrap_or(MOST);
        &self.options[..n]
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Custom({}", self.name)?;
        self.named().iter().try_for_each(|(name, value)| write!(f, ", {name} = {value}"))?;
        f.write_str(")")
    }
}

/// A formula whose type is not known.
trait OnCpu: Send + Sync {
    fn run(&self, options: &[(&'static str, f32); MOST], request: AnyRequest<'_>) -> Result<f32>;
}

struct Formula<F, const N: usize>(F)
where
    F: Fn(f32, f32, [f32; N]) -> (f32, f32);

impl<const N: usize, F> OnCpu for Formula<F, N>
where
    F: Fn(f32, f32, [f32; N]) -> (f32, f32) + Copy + Send + Sync + 'static,
{
    fn run(&self, options: &[(&'static str, f32); MOST], request: AnyRequest<'_>) -> Result<f32> {
        let loss = WithOptions { formula: self.0, options: std::array::from_fn(|i| options[i].1) };
        for_request!(request, |r| elementwise::run(loss, r))
    }
}

#[derive(Clone, Copy)]
struct WithOptions<F, const N: usize> {
    formula: F,
    options: [f32; N],
}

impl<const N: usize, F> Pointwise for WithOptions<F, N>
where
    F: Fn(f32, f32, [f32; N]) -> (f32, f32) + Copy + Send + Sync,
{
    const NAME: &'static str = Custom::NAME;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let (value, grad) = x.zip_map(t, |x, t| (self.formula)(x, t, self.options));
        Point { value, grad }
    }
}

impl Loss for Custom {
    const NAME: &'static str = "custom loss";
}
impl Run for Custom {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        self.cpu.run(&self.options, request)
    }
}
elementwise_methods!(Custom);

crate::cuda::kernel::kernel!(Custom, |l| {
    let values = l.options.map(|(_, value)| value);
    Kernel::custom(l.cuda.file, Custom::NAME, &values[..l.named().len()])
});
