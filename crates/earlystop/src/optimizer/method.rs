//! How each method turns gradients into steps.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

/// A method with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    Sgd { momentum: f64, nesterov: bool },
    RmsProp { decay: f64, momentum: f64, epsilon: f64 },
    Adam { betas: [f64; 2], epsilon: f64 },
    AdamW { betas: [f64; 2], epsilon: f64 },
}

impl Method {
    /// The name of its constructor, and the first part of the names of its tensors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::RmsProp { .. } => "rms_prop",
            Self::Adam { .. } => "adam",
            Self::AdamW { .. } => "adam_w",
        }
    }

    /// The names of what it remembers of each value's gradients, at most two.
    pub(super) fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { momentum: 0.0, .. } => &[],
            Self::Sgd { .. } => &["momentum"],
            Self::RmsProp { momentum: 0.0, .. } => &["v"],
            Self::RmsProp { .. } => &["v", "momentum"],
            Self::Adam { .. } | Self::AdamW { .. } => &["m", "v"],
        }
    }
}

/// One step of a method for one variable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) method: Method,
    /// How often the variables were updated, this step included.
    pub(super) number: i64,
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
    pub(super) clip: Clip,
}

/// What is done to gradients first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Clip {
    /// The largest magnitude of a value; infinity for none.
    pub(super) value: f64,
    /// What all values are multiplied by then, so that the norm of all is within its limit.
    pub(super) factor: f64,
}

impl Clip {
    pub(super) const NONE: Self = Self { value: f64::INFINITY, factor: 1.0 };

    pub(super) fn apply(self, gradient: f32) -> f32 {
        // NaN stays NaN.
        gradient.clamp(-self.value as f32, self.value as f32) * self.factor as f32
    }

    /// Does the same by libtorch's operations, for values of any kind on any device.
    pub(super) fn apply_anywhere(self, gradient: &Tensor) -> Result<Tensor, TchError> {
        let mut clipped = gradient.shallow_clone();
        if self.value.is_finite() {
            clipped = clipped.f_clamp(-self.value, self.value)?;
        }
        if self.factor != 1.0 {
            clipped = clipped.f_mul_scalar(self.factor)?;
        }
        Ok(clipped)
    }
}

impl Step {
    /// Updates values in one pass over the memory, several times faster than libtorch's separate operations. `moments` has as many
    /// slices as the [method has](Method::moments), then empty ones. Moments and gradient are as long as the values.
    pub(super) fn update(&self, values: &mut [f32], moments: [&mut [f32]; 2], gradient: &[f32]) {
        let (clip, decay) = (self.clip, self.coupled_decay() as f32);
        // Without a clip and decay, not even an operation that changes nothing: the loop is bound by arithmetic.
        match (clip == Clip::NONE, decay == 0.0) {
            (true, true) => self.update_by(values, moments, gradient, |gradient, _| gradient),
            (true, false) => self.update_by(values, moments, gradient, |gradient, value| gradient + decay * value),
            (false, _) => {
                self.update_by(values, moments, gradient, |gradient, value| clip.apply(gradient) + decay * value);
            }
        }
    }

    fn update_by(
        &self,
        values: &mut [f32],
        [first, second]: [&mut [f32]; 2],
        gradient: &[f32],
        prepare: impl Fn(f32, f32) -> f32,
    ) {
        let rate = self.learning_rate as f32;
        let gradients = gradient.iter();
        match self.method {
            Method::Sgd { momentum: 0.0, .. } => {
                for (value, &g) in values.iter_mut().zip(gradients) {
                    *value -= rate * prepare(g, *value);
                }
            }
            Method::Sgd { momentum, nesterov } => {
                let momentum = momentum as f32;
                for ((value, m), &g) in values.iter_mut().zip(first).zip(gradients) {
                    let g = prepare(g, *value);
                    *m = momentum * *m + g;
                    *value -= rate * if nesterov { g + momentum * *m } else { *m };
                }
            }
            Method::RmsProp { decay, momentum, epsilon } => {
                let (keep, add, epsilon) = (decay as f32, (1.0 - decay) as f32, epsilon as f32);
                let scaled = |value: f32, v: &mut f32, g: f32| {
                    let g = prepare(g, value);
                    *v = keep * *v + add * g * g;
                    g / (v.sqrt() + epsilon)
                };
                if momentum == 0.0 {
                    for ((value, v), &g) in values.iter_mut().zip(first).zip(gradients) {
                        *value -= rate * scaled(*value, v, g);
                    }
                } else {
                    for (((value, v), m), &g) in values.iter_mut().zip(first).zip(second).zip(gradients) {
                        *m = momentum as f32 * *m + scaled(*value, v, g);
                        *value -= rate * *m;
                    }
                }
            }
            Method::Adam { betas: [beta1, beta2], epsilon } | Method::AdamW { betas: [beta1, beta2], epsilon } => {
                let (rate, root) = (self.corrected_rate(beta1) as f32, self.root(beta2) as f32);
                let (keep1, add1, keep2, add2) =
                    (beta1 as f32, (1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
                let (epsilon, shrink) = (epsilon as f32, self.shrink() as f32);
                for (((value, m), v), &g) in values.iter_mut().zip(first).zip(second).zip(gradients) {
                    let g = prepare(g, *value);
                    *m = keep1 * *m + add1 * g;
                    *v = keep2 * *v + add2 * g * g;
                    *value = shrink * *value - rate * *m / (v.sqrt() / root + epsilon);
                }
            }
        }
    }

    /// Updates values of any kind, on any device, by libtorch's operations.
    pub(super) fn update_anywhere(
        &self,
        values: &Tensor,
        moments: &[Tensor],
        gradient: &Tensor,
    ) -> Result<(), TchError> {
        let mut values = values.shallow_clone();
        let mut g = self.clip.apply_anywhere(gradient)?;
        if self.coupled_decay() != 0.0 {
            g = g.f_add(&values.f_mul_scalar(self.coupled_decay())?)?;
        }
        let mut moments = moments.iter().map(Tensor::shallow_clone);
        let (first, second) = (moments.next(), moments.next());
        let step = match (self.method, first, second) {
            (Method::Sgd { momentum, nesterov }, Some(mut m), _) => {
                let _ = m.f_mul_scalar_(momentum)?.f_add_(&g)?;
                let step = if nesterov { g.f_add(&m.f_mul_scalar(momentum)?)? } else { m };
                step.f_mul_scalar(self.learning_rate)?
            }
            (Method::RmsProp { decay, momentum, epsilon }, Some(mut v), second) => {
                let _ = v.f_mul_scalar_(decay)?.f_add_(&g.f_square()?.f_mul_scalar(1.0 - decay)?)?;
                let mut step = g.f_div(&v.f_sqrt()?.f_add_scalar(epsilon)?)?;
                if let Some(mut m) = second {
                    let _ = m.f_mul_scalar_(momentum)?.f_add_(&step)?;
                    step = m;
                }
                step.f_mul_scalar(self.learning_rate)?
            }
            (
                Method::Adam { betas: [beta1, beta2], epsilon } | Method::AdamW { betas: [beta1, beta2], epsilon },
                Some(mut m),
                Some(mut v),
            ) => {
                let _ = m.f_mul_scalar_(beta1)?.f_add_(&g.f_mul_scalar(1.0 - beta1)?)?;
                let _ = v.f_mul_scalar_(beta2)?.f_add_(&g.f_square()?.f_mul_scalar(1.0 - beta2)?)?;
                let scale = v.f_sqrt()?.f_div_scalar(self.root(beta2))?.f_add_scalar(epsilon)?;
                let _ = values.f_mul_scalar_(self.shrink())?;
                m.f_mul_scalar(self.corrected_rate(beta1))?.f_div(&scale)?
            }
            _ => g.f_mul_scalar(self.learning_rate)?,
        };
        let _ = values.f_sub_(&step)?;
        Ok(())
    }

    /// The weight decay that is part of the gradient: of all methods but AdamW.
    fn coupled_decay(&self) -> f64 {
        if matches!(self.method, Method::AdamW { .. }) { 0.0 } else { self.weight_decay }
    }

    /// What AdamW multiplies values by.
    fn shrink(&self) -> f64 {
        if matches!(self.method, Method::AdamW { .. }) { 1.0 - self.learning_rate * self.weight_decay } else { 1.0 }
    }

    /// `learning_rate / (1 - β₁ᵗ)`
    fn corrected_rate(&self, beta1: f64) -> f64 {
        self.learning_rate / (1.0 - beta1.powf(self.number as f64))
    }

    /// `sqrt(1 - β₂ᵗ)`
    fn root(&self, beta2: f64) -> f64 {
        (1.0 - beta2.powf(self.number as f64)).sqrt()
    }
}
