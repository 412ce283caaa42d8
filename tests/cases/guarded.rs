//! Slices within larger buffers: at any alignment, and with canaries on both sides.

use fused_loss::Element;

/// A slice within a buffer whose other elements must not be written.
pub struct Guarded<T> {
    buffer: Vec<T>,
    offset: usize,
}

/// More than one vector.
const AFTER: usize = 17;
const CANARY: f32 = -77.0;

impl<T: Element> Guarded<T> {
    /// A copy of `x` that begins at element `offset`.
    pub fn new(x: &[T], offset: usize) -> Self {
        let canary = T::from_f32(CANARY);
        let mut buffer = vec![canary; offset];
        buffer.extend_from_slice(x);
        buffer.resize(buffer.len() + AFTER, canary);
        Guarded { buffer, offset }
    }

    pub fn get(&self) -> &[T] {
        &self.buffer[self.offset..self.buffer.len() - AFTER]
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        let end = self.buffer.len() - AFTER;
        &mut self.buffer[self.offset..end]
    }

    pub fn canaries_live(&self) -> bool {
        let (before, after) = (&self.buffer[..self.offset], &self.buffer[self.buffer.len() - AFTER..]);
        before.iter().chain(after).all(|x| x.to_f32() == CANARY)
    }
}

/// For comparisons that tell -0 from 0 and know a NaN when they see the same one.
pub fn bits<T: Element>(x: &[T]) -> Vec<u32> {
    x.iter().map(|x| x.to_f32().to_bits()).collect()
}
