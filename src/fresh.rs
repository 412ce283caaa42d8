//! Calls whose outputs are memory of their own, for libraries whose operations return tensors.
//!
//! It is not zeroed first: that would be one more pass over the gradient, of the few that a loss takes.

use crate::call::{Call, Loss, Output, Request};
use crate::cpu::mem::{Dst, Src};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::reduction::Reduction;

/// What becomes of the losses.
#[derive(Clone, Copy)]
pub(crate) enum Form<'a> {
    Reduced(Reduction),
    /// So many losses are wanted, or none; and the upstream gradient of each.
    Unreduced {
        losses: Option<usize>,
        grad_output: Option<&'a [f32]>,
    },
}

/// What a call has made.
pub(crate) struct Made<T> {
    /// Of the reduced form.
    pub(crate) value: f32,
    /// Of the unreduced form.
    pub(crate) losses: Option<Vec<f32>>,
    /// For input and target.
    pub(crate) grads: [Option<Vec<T>>; 2],
}

impl<L: Loss, T: Element> Call<'_, L, T> {
    /// Runs the call; `grads` says which gradients are wanted.
    pub(crate) fn make(self, form: Form<'_>, grads: [bool; 2]) -> Result<Made<T>> {
        let n = self.input.len();
        let wanted = |wanted: bool| wanted.then(|| reserved(n)).transpose();
        let (mut grad_input, mut grad_target) = (wanted(grads[0])?, wanted(grads[1])?);
        let (mut losses, mut extras) = (None, self.extras);
        let output = match form {
            Form::Reduced(reduction) => Output::Reduced(reduction),
            Form::Unreduced { losses: count, grad_output } => {
                losses = count.map(reserved).transpose()?.zip(count);
                let losses = losses.as_mut().map(|(v, count)| spare(v, *count));
                Output::Unreduced { losses, grad_output }
            }
        };
        extras.grad_target = grad_target.as_mut().map(|v| spare(v, n));
        let grad = grad_input.as_mut().map(|v| spare(v, n));
        let request = Request { input: Src::new(self.input), extras, grad_input: grad, in_place: false, output };
        let value = request.run(&self.loss)?;
        // SAFETY: a call that has not failed, and does not accumulate, has written every element of each of its outputs: the
        // battery compares them all, in buffers that held something else.
        let filled = |v: Option<Vec<T>>| v.map(|v| unsafe { with_len(v, n) });
        let grads = [filled(grad_input), filled(grad_target)];
        // SAFETY: as above.
        let losses = losses.map(|(v, count)| unsafe { with_len(v, count) });
        Ok(Made { value, losses, grads })
    }
}

fn reserved<X>(n: usize) -> Result<Vec<X>> {
    let mut v = Vec::new();
    let bytes = n as u128 * size_of::<X>() as u128;
    v.try_reserve_exact(n).map_err(|_| Error::OutOfMemory { bytes })?;
    Ok(v)
}

fn spare<X: Element>(v: &mut Vec<X>, n: usize) -> Dst<'_, X> {
    Dst::spare(&mut v.spare_capacity_mut()[..n])
}

/// # Safety
/// The first `n` elements have been written.
unsafe fn with_len<X>(mut v: Vec<X>, n: usize) -> Vec<X> {
    debug_assert!(n <= v.capacity());
    // SAFETY: the caller's promise; there is room for them, since they have been written.
    unsafe { v.set_len(n) };
    v
}
