//! A step against the gradient.

use tch::{Device, Kind, Tensor};

use super::method::{Clip, Step};
use super::parameter::Parameter;
use super::{Optimizer, Trainable};
use crate::error::{Error, Result, torch};
use crate::kernels::share;
use crate::network::Loss;
use crate::values::{values, values_mut};

/// How many values a thread updates at a time.
const PART: usize = 1 << 15;

impl Optimizer {
    /// Updates the model's variables by one step against the loss's gradient, which is computed here.
    ///
    /// `loss` comes from [`Network::training_loss`](crate::Network::training_loss), perhaps scaled, added to other losses, or with
    /// a penalty: see [`Loss`]. Or it is computed by libtorch alone: `Loss::from(tensor)`. Variables that it does not depend on
    /// stay as they are. Stands in for `session.run(optimizer, feed_dict=…)`.
    ///
    /// # Errors
    ///
    /// [`Error::Loss`] if the loss is not a single number or does not depend on the model's trained variables; if the model is
    /// not the one that the optimizer was made for; [`Error::Loss`] or [`Error::Torch`] if variables or inputs were modified after the
    /// loss was computed, as `minimize` itself does: compute the loss again for the next step. Then nothing was changed.
    pub fn minimize(&mut self, loss: &Loss, model: &mut impl Trainable) -> Result<()> {
        self.minimize_scaled(loss, model, 1.0)
    }

    /// Does the same with the learning rate of the schedule multiplied by a factor, in this step only.
    ///
    /// The factor is no part of the optimizer's state. It may come from a [`Plateau`](crate::early_stopping::Plateau), which computes it from the
    /// history of the run.
    ///
    /// # Errors
    ///
    /// As [`minimize`](Self::minimize); and [`Error::Setting`] if the factor is negative or not finite.
    pub fn minimize_scaled(&mut self, loss: &Loss, model: &mut impl Trainable, rate_factor: f64) -> Result<()> {
        if !(rate_factor >= 0.0 && rate_factor.is_finite()) {
            return Err(Error::setting("factor of the learning rate", "0 or a positive number", rate_factor));
        }
        self.check(model)?;
        let gradients = self.gradients(loss)?;
        self.update(&gradients, rate_factor)
    }

    /// Checks that this optimizer was made for a model.
    pub(crate) fn check(&self, model: &(impl Trainable + ?Sized)) -> Result<()> {
        let variables = model.variables_to_train();
        let is_made_for_it = variables.len() == self.parameters.len()
            && self.parameters.iter().zip(&variables).all(|(parameter, named)| parameter.is(named));
        if is_made_for_it {
            return Ok(());
        }
        Err(Error::model("model", "the one that the optimizer was made for", "one with other variables"))
    }

    /// Checks that there is something to train.
    pub(crate) fn expect_trained(&self) -> Result<()> {
        if self.parameters.iter().any(is_trained) {
            return Ok(());
        }
        Err(Error::model("network", "at least one layer to train", "that all are frozen"))
    }

    /// Updates the variables, with the learning rate multiplied by a factor. Nothing else may use them meanwhile.
    pub(crate) fn update(&mut self, gradients: &[Option<Tensor>], rate_factor: f64) -> Result<()> {
        self.parameters.iter().try_for_each(Parameter::expect_in_place)?;
        let _no_grad = tch::no_grad_guard();
        let clip = self.clip(gradients)?;
        let _ = self.steps.f_add_scalar_(1).map_err(torch("optimizer.steps"))?;
        let number = self.steps.int64_value(&[0]);
        let learning_rate = self.schedule.at(number.max(0) as u64) * rate_factor;
        let step = Step { method: self.method, number, learning_rate, weight_decay: self.weight_decay, clip };
        // SAFETY: libtorch and our kernels compute gradients into new memory. Variables and moments have memory of their own, which
        // nothing else uses here: the caller has borrowed the model and this optimizer mutably. Whoever has tensors that share their
        // memory must not use them on another thread meanwhile, as with libtorch's operations.
        unsafe { self.update_plain(step, gradients) };
        for (parameter, gradient) in self.parameters.iter().zip(gradients) {
            if let Some(gradient) = gradient.as_ref().filter(|_| !parameter.is_plain()) {
                let updated = parameter.step(step).update_anywhere(&parameter.flat, &parameter.moments, gradient);
                updated.map_err(torch(&parameter.name))?;
            }
        }
        Ok(())
    }

    /// Computes the gradient of each parameter, as a row; none of those that are frozen or that the loss does not depend on.
    pub(crate) fn gradients(&self, loss: &Loss) -> Result<Vec<Option<Tensor>>> {
        self.parameters.iter().try_for_each(Parameter::expect_in_place)?;
        let trained = self.parameters.iter().filter(|parameter| is_trained(parameter));
        let mut found = loss.gradients(&trained.map(|parameter| &parameter.leaf).collect::<Vec<_>>())?.into_iter();
        let gradient = |parameter| if is_trained(parameter) { found.next().flatten() } else { None };
        Ok(self.parameters.iter().map(gradient).collect())
    }

    /// Returns the values of each parameter as a row, as long as its gradient.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Tensor> {
        self.parameters.iter().map(|parameter| &parameter.flat)
    }

    /// Updates `f32` values on the CPU, on all threads.
    ///
    /// # Safety
    ///
    /// Nothing else may use the variables, the moments or the gradients meanwhile.
    unsafe fn update_plain(&mut self, step: Step, gradients: &[Option<Tensor>]) {
        let mut parts = Vec::new();
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            let Some(gradient) = gradient.as_ref().filter(|_| parameter.is_plain()) else { continue };
            let step = parameter.step(step);
            // SAFETY: the caller ensures that nothing else uses variables, moments and gradients. Each has memory of its own.
            let (mut values, mut gradient) = unsafe { (values_mut(&mut parameter.flat), values(gradient)) };
            // SAFETY: as above.
            let mut moments = parameter.moments.iter_mut().map(|row| unsafe { values_mut(row) });
            let [mut first, mut second] = [(); 2].map(|()| moments.next().unwrap_or_default());
            while !gradient.is_empty() {
                let (head, tail) = gradient.split_at(gradient.len().min(PART));
                let moments = [take(&mut first, head.len()), take(&mut second, head.len())];
                parts.push((step, take(&mut values, head.len()), moments, head));
                gradient = tail;
            }
        }
        share(&mut parts, tch::get_num_threads() as usize, |(step, values, moments, gradient)| {
            step.update(values, moments.each_mut().map(|moment| &mut **moment), gradient);
        });
    }

    /// Finds what the gradients are to be clipped by.
    fn clip(&self, gradients: &[Option<Tensor>]) -> Result<Clip> {
        let clip = Clip { value: self.clip_value.unwrap_or(f64::INFINITY), ..Clip::NONE };
        let Some(limit) = self.clip_norm else { return Ok(clip) };
        let mut squares = 0.0;
        for (parameter, gradient) in self.parameters.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                squares += square_sum(gradient, clip).map_err(torch(&parameter.name))?;
            }
        }
        // The tiny number is PyTorch's.
        let factor = limit / (squares.sqrt() + 1e-6);
        Ok(Clip { factor: if factor > 1.0 { 1.0 } else { factor }, ..clip }) // NaN stays NaN
    }
}

impl Parameter {
    /// The step of this variable.
    fn step(&self, step: Step) -> Step {
        let weight_decay = if self.decays { step.weight_decay } else { 0.0 };
        Step { learning_rate: step.learning_rate * self.rate_factor, weight_decay, ..step }
    }
}

fn is_trained(parameter: &Parameter) -> bool {
    parameter.leaf.variable().requires_grad()
}

/// Adds up the squares of a gradient's values, in an order that depends on nothing but their number.
fn square_sum(gradient: &Tensor, clip: Clip) -> Result<f64, tch::TchError> {
    if gradient.kind() != Kind::Float || gradient.device() != Device::Cpu {
        return clip
            .apply_anywhere(gradient)?
            .f_to_kind(Kind::Double)?
            .f_square()?
            .f_sum(Kind::Double)?
            .f_double_value(&[]);
    }
    // SAFETY: the gradient was computed for this step alone, and nothing writes to it here.
    let gradient = unsafe { values(gradient) };
    let square = |&value: &f32| f64::from(clip.apply(value)).powi(2);
    Ok(gradient.chunks(16).map(|part| part.iter().map(square).sum::<f64>()).sum())
}

/// Cuts off the first `count` values, or all of a shorter row.
fn take<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let count = count.min(rest.len());
    let (taken, others) = std::mem::take(rest).split_at_mut(count);
    *rest = others;
    taken
}
