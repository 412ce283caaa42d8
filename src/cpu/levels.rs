//! Whole losses on every instruction set of this machine, each forced in turn, against plain Rust: every length of a tail, every
//! alignment, and buffers beside a page that must not be touched.

#![cfg_attr(miri, allow(dead_code))] // it sees a part

#[macro_use]
#[path = "../../tests/edge_cases/support.rs"]
mod support;

use super::simd::Isa;
use crate::{Element, Reduction};
use support::*;

/// A slice that begins right behind, or ends right before, a page that faults when it is touched.
#[cfg(all(unix, not(miri)))]
struct Fenced<T> {
    mapped: *mut libc::c_void,
    bytes: usize,
    data: *mut T,
    len: usize,
}

#[cfg(all(unix, not(miri)))]
impl<T: Element> Fenced<T> {
    fn new(x: &[T], at_end: bool) -> Self {
        const PAGE: usize = 4096;
        let inside = size_of_val(x).next_multiple_of(PAGE).max(PAGE);
        let bytes = inside + 2 * PAGE;
        // SAFETY: new memory, of which the first and the last page are closed; what is copied fits between them.
        unsafe {
            let (read_write, anonymous) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let mapped = libc::mmap(std::ptr::null_mut(), bytes, read_write, anonymous, -1, 0);
            assert!(mapped != libc::MAP_FAILED, "no memory");
            let last = mapped.byte_add(bytes - PAGE);
            assert!(
                libc::mprotect(mapped, PAGE, libc::PROT_NONE) == 0 && libc::mprotect(last, PAGE, libc::PROT_NONE) == 0
            );
            let data = if at_end { last.byte_sub(size_of_val(x)) } else { mapped.byte_add(PAGE) }.cast::<T>();
            data.copy_from_nonoverlapping(x.as_ptr(), x.len());
            Fenced { mapped, bytes, data, len: x.len() }
        }
    }

    fn get(&self) -> &[T] {
        // SAFETY: ours, and written when it was made.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

#[cfg(all(unix, not(miri)))]
impl<T> Drop for Fenced<T> {
    fn drop(&mut self) {
        // SAFETY: what was mapped.
        unsafe { libc::munmap(self.mapped, self.bytes) };
    }
}

/// Where there are no such pages: a vector of its own, of which Miri knows the ends.
#[cfg(not(all(unix, not(miri))))]
struct Fenced<T>(Vec<T>);

#[cfg(not(all(unix, not(miri))))]
impl<T: Element> Fenced<T> {
    fn new(x: &[T], _: bool) -> Self {
        Fenced(x.to_vec())
    }

    fn get(&self) -> &[T] {
        &self.0
    }

    fn get_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// What a call gives on a set: values, gradient for the input, gradient for the target.
fn run<T: Element>(isa: Isa, loss: &AnyLoss<T>, data: &Data<T>, at_end: bool) -> (Vec<f32>, [Vec<T>; 2]) {
    let fenced = |x: &[T]| Fenced::new(x, at_end);
    let (input, nothing) = (fenced(&data.input), vec![T::from_f32(f32::NAN); data.input.len()]);
    let (mut grad, mut grad_target) = (fenced(&nothing), fenced(&nothing));
    let dense = match &data.target {
        Labels::Dense(t) => Some(fenced(t)),
        _ => None,
    };
    let target = dense.as_ref().map_or(data.target.view(), |t| crate::Target::Dense(t.get()));
    let losses = loss.losses(data.dims);
    let (mut values, ones) = (vec![0.0; losses], vec![1.0; losses]);
    isa.on(|| {
        let verb = Verb::UnreducedBackward(&ones, &mut values, grad.get_mut());
        let mut job = Job::new(input.get(), target, data.dims.into(), verb);
        if loss.grad_target {
            job.grad_target = Some(grad_target.get_mut());
        }
        (loss.run)(job).unwrap_or_else(|e| panic!("{}: {e}", loss.name));
        // With nothing but a gradient there is a loop of its own.
        let mut usual = fenced(&nothing);
        let job =
            Job::new(input.get(), target, data.dims.into(), Verb::ForwardBackward(Reduction::Sum, usual.get_mut()));
        values.push((loss.run)(job).unwrap());
        let same = bits(usual.get()) == bits(grad.get());
        assert!(
            same,
            "{} {:?} on {}: {:?}, {:?}",
            loss.name,
            data.dims,
            isa.name(),
            from(usual.get()),
            from(grad.get())
        );
    });
    let target = if loss.grad_target { grad_target.get().to_vec() } else { vec![] };
    (values, [grad.get().to_vec(), target])
}

/// The baseline, which has no fused multiplication either, gives the same bits; others round less.
fn compare<T: Element>(isa: Isa, what: &str, got: &[T], want: &[T]) {
    if matches!(isa, Isa::Baseline(_)) {
        assert!(bits(got) == bits(want), "{what}: {got:?}, in plain Rust {want:?}");
    }
    let wide = |x: &[T]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
    let (got, want) = (wide(got), wide(want));
    // Where values are what is left of larger numbers, these are of about 1.
    let largest = want.iter().fold(1f64, |most, x| most.max(x.abs()));
    let ulp = match T::NAME {
        "float32" => 0.0,
        "float16" => 1.0 / 1024.0,
        _ => 1.0 / 128.0,
    };
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= 2e-6 * largest + ulp * want.abs(), "{what}[{i}]: {got}, in plain Rust {want}");
    }
}

fn sets() -> impl Iterator<Item = Isa> {
    Isa::available().iter().copied()
}

/// Sixteen lanes, a pair of them and a block of eight, each with every tail; halves, whose loads and stores alone are others, share them.
fn sizes<T: Element>(form: Form) -> Vec<[usize; 3]> {
    let all: Vec<[usize; 3]> = match form {
        Form::Element => (0..=49).chain(127..=130).map(|n| [n, 1, 1]).collect(),
        _ => {
            let last = (1..=49).map(|classes| [1, classes, 1]).chain((2..=18).map(|rows| [rows, 3, 1]));
            let first = (2..=34).map(|inner| [1, 2, inner]).chain((63..=67).map(|classes| [2, classes, 2]));
            last.chain(first).chain([[3, 129, 1], [1, 257, 3]]).collect()
        }
    };
    let (one_in, first) = match T::NAME {
        "float32" => (1, 0),
        "float16" => (4, 0),
        _ => (4, 1),
    };
    all.into_iter().skip(first).step_by(one_in).collect()
}

/// Miri, which takes ten thousand times as long, sees the baseline alone, a tail in either layout, and losses that between them run every
/// loop.
#[test]
#[cfg(miri)]
fn miri_finds_nothing() {
    const EACH_LOOP: [&str; 9] = [
        "MSE",
        "cross-entropy",
        "Dice, sigmoid",
        "BCE with logits",
        "Gaussian NLL",
        "distillation",
        "categorical hinge, dense",
        "Dice, softmax, batch",
        "Tversky",
    ];
    fn check<T: Element>() {
        let mut random = Random(0x3141);
        let mine = if size_of::<T>() == 4 { &EACH_LOOP[..] } else { &EACH_LOOP[..3] };
        for loss in losses::<T>().iter().filter(|loss| mine.contains(&loss.name)) {
            let data = loss.data(&mut random, if loss.form == Form::Element { [17, 1, 1] } else { [1, 2, 17] });
            run(Isa::available()[0], loss, &data, true);
            if loss.form == Form::Row {
                run(Isa::available()[0], loss, &loss.data(&mut random, [2, 3, 1]), true);
            }
        }
    }
    every_dtype!(check);
}

#[test]
#[cfg(not(miri))]
fn every_set_gives_what_plain_rust_gives_for_any_tail_beside_a_fence() {
    fn check<T: Element>() {
        let mut random = Random(0x51d);
        for loss in losses::<T>() {
            for dims in sizes::<T>(loss.form) {
                let data = loss.data(&mut random, dims);
                let want = run(Isa::portable(), &loss, &data, true);
                for isa in sets() {
                    let what = format!("{} of {} {dims:?} on {}", loss.name, T::NAME, isa.name());
                    let got = run(isa, &loss, &data, true);
                    compare(isa, &what, &got.0, &want.0);
                    compare(isa, &what, &got.1[0], &want.1[0]);
                    compare(isa, &what, &got.1[1], &want.1[1]);
                    let moved = run(isa, &loss, &data, false);
                    let same = bits(&got.0) == bits(&moved.0) && (0..2).all(|k| bits(&got.1[k]) == bits(&moved.1[k]));
                    assert!(same, "{what}: at another alignment {moved:?}, at this {got:?}");
                }
            }
        }
    }
    every_dtype!(check);
}
