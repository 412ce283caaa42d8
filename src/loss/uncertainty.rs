use crate::error::{Result, check_option};

/// How much a task counts in the loss of a model that has several, learned with the model.
///
/// With `L` the loss of the task and `s` the logarithm of the variance that its targets have about the predictions, a number that is
/// trained like a bias:
///
/// | | `regression` | `classification` |
/// |---|---|---|
/// | value | `e^-s L / 2 + s / 2` | `e^-s L + s / 2` |
/// | [`weight`](Self::weight), of the gradients of `L` | `e^-s / 2` | `e^-s` |
/// | [`grad`](Self::grad), for `s` | `1/2 - e^-s L / 2` | `1/2 - e^-s L` |
///
/// The loss of the model is the sum of the values of its tasks. A task whose loss stays large, because its targets are noisy or in a large
/// unit, learns a large `s` and pulls less; `s / 2` keeps all tasks from doing so. With the squared error the best `s` is `ln L`.
///
/// Source: Kendall, Gal and Cipolla 2018, equations 5 to 10 (arXiv 1705.07115), with `s = ln sigma^2` as in their section 3. Each task keeps
/// its fused call: nothing is computed twice, and the weight is the call's upstream gradient, which costs nothing.
///
/// ```
/// use fused_loss::{CrossEntropy, Mse, Reduction, TaskUncertainty};
/// # fn main() -> fused_loss::Result<()> {
/// let (depth, depth_target, mut grad_depth) = ([1.0, 3.0], [1.5, 1.0], [0.0; 2]);
/// let (logits, classes, mut grad_logits) = ([2.0, 0.0, 0.0, 1.0], [0i64, 0], [0.0; 4]);
/// let (mut s_depth, mut s_class) = (0.0, 0.0);
/// let mut before = f32::INFINITY;
/// for _ in 0..100 {
///     let of_depth = TaskUncertainty::regression(s_depth)?;
///     let of_class = TaskUncertainty::classification(s_class)?;
///     // One scale for the model as a whole, such as that of a mixed-precision trainer, is a factor of both.
///     let scale = 1024.0;
///     let call = Mse::new().call(&depth, &depth_target).grad_output(scale * of_depth.weight());
///     let l_depth = call.forward_backward(Reduction::Mean, &mut grad_depth)?;
///     let call = CrossEntropy::new().call(&logits, &classes, (2, 2)).grad_output(scale * of_class.weight());
///     let l_class = call.forward_backward(Reduction::Mean, &mut grad_logits)?;
///     let loss = of_depth.value(l_depth) + of_class.value(l_class);
///     assert!(loss <= before + 1e-6);
///     before = loss;
///     // The model would learn from the gradients of both outputs; the two numbers do from these.
///     (s_depth, s_class) = (s_depth - 0.5 * of_depth.grad(l_depth), s_class - 0.5 * of_class.grad(l_class));
/// }
/// assert!((s_depth - 2.125f32.ln()).abs() < 1e-3); // the squared error
/// # Ok(()) }
/// ```
///
/// **On GPUs** the same numbers of the host serve. A weight does not depend on the loss, so the calls of all tasks, and the backward pass of
/// the model, are enqueued without waiting; but `value` and `grad` want the losses on the host: read them back together when all of the step
/// has been enqueued, which is one wait a step, or learn `s` from the losses of the step before, which have long been there. (Verbs on a
/// [`Device`](crate::Device) return their value and wait, each.) There is no form that keeps `s` on the GPU.
///
/// Errors: an `s` that is NaN, or beyond -80 or 80, where `e^-s` soon leaves f32. A loss that is infinite or NaN has a value and a gradient
/// that are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskUncertainty {
    log_variance: f32,
    weight: f32,
}

impl TaskUncertainty {
    /// Of a task with a squared error or another loss of distances.
    pub fn regression(log_variance: f32) -> Result<Self> {
        TaskUncertainty::classification(log_variance).map(|task| TaskUncertainty { weight: 0.5 * task.weight, ..task })
    }

    /// Of a task with a cross-entropy.
    pub fn classification(log_variance: f32) -> Result<Self> {
        let ok = (-80.0..=80.0).contains(&log_variance);
        check_option("log_variance", "a number from -80 to 80", log_variance, ok)?;
        Ok(TaskUncertainty { log_variance, weight: (-log_variance).exp() })
    }

    /// What the gradients of the task's loss are multiplied by: for [`Call::grad_output`](crate::Call::grad_output).
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// What the task adds to the loss of the model.
    pub fn value(&self, loss: f32) -> f32 {
        self.weight.mul_add(loss, 0.5 * self.log_variance)
    }

    /// The derivative of [`value`](Self::value) for the logarithm of the variance.
    pub fn grad(&self, loss: f32) -> f32 {
        (-self.weight).mul_add(loss, 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_value_and_the_weight_that_of_the_loss() {
        for make in [TaskUncertainty::regression, TaskUncertainty::classification] {
            for (s, loss) in [(-3.0f32, 0.01f32), (0.0, 1.0), (1.5, 7.0), (4.0, -0.5)] {
                let value = |s: f32, loss: f32| f64::from(make(s).unwrap().value(loss));
                let h = 1.0 / 64.0;
                let by_s = (value(s + h, loss) - value(s - h, loss)) / (2.0 * f64::from(h));
                let by_loss = (value(s, loss + h) - value(s, loss - h)) / (2.0 * f64::from(h));
                let task = make(s).unwrap();
                // A third derivative of e^-s L times h^2 / 6, and what f32 leaves of the differences.
                let allowed = f64::from(task.weight() * loss.abs()) * 4.1e-5 + 1e-4 * f64::from(1.0 + task.weight());
                assert!((by_s - f64::from(task.grad(loss))).abs() <= allowed, "{task:?} {loss}: {by_s}");
                assert!((by_loss - f64::from(task.weight())).abs() <= allowed, "{task:?} {loss}: {by_loss}");
            }
        }
    }

    #[test]
    fn a_squared_error_is_the_negative_log_likelihood_of_a_gaussian() {
        let (error, s) = (0.75f32, -0.5f32);
        let gaussian = 0.5 * (error * error / s.exp() + s);
        assert!((TaskUncertainty::regression(s).unwrap().value(error * error) - gaussian).abs() < 1e-6);
    }

    #[test]
    fn a_variance_beyond_f32_is_an_error() {
        for s in [f32::NAN, f32::INFINITY, 80.1, -1e3] {
            assert!(TaskUncertainty::regression(s).is_err() && TaskUncertainty::classification(s).is_err());
        }
        for s in [-80.0, 80.0] {
            let task = TaskUncertainty::regression(s).unwrap();
            assert!(task.weight().is_normal() && task.value(1.0).is_finite());
        }
    }
}
