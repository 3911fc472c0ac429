//! Forward passes: prediction, loss, activations.

use ndarray::ArrayD;
use rand::Rng;
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::block::{Block, Kernel};
use super::layers::Activation;
use super::one_thread::OneThread;
use super::plan::{Op, Pads};
use super::variables::in_memory_order;
use super::{Loss, Network, Variables};
use crate::error::{Error, Result, torch};
use crate::kernels::{ConvPool, Dense};
use crate::random::{Purpose, stream};
use crate::values::{values, values_mut};

impl Network {
    /// Computes the probability of each class, `[batch, num_classes]`, without recording a graph. For an empty batch, the
    /// result has no rows.
    ///
    /// # Errors
    ///
    /// If the shape of the images is neither `[batch, height, width, channels]` nor flat `[batch, height * width * channels]`.
    pub fn predict(&self, images: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let logits = self.logits(images)?;
        let _one_thread = OneThread::begin();
        logits.f_softmax(-1, Kind::Float).map_err(torch("softmax_classifier"))
    }

    /// Computes the logits (the input of the softmax), `[batch, num_classes]`, without recording a graph.
    ///
    /// # Errors
    ///
    /// As [`Network::predict`].
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        self.run(images, None, |_, _| {})
    }

    /// Computes the loss to minimize: the mean cross-entropy between the labels and the predictions.
    ///
    /// `labels` are one-hot, `[batch, num_classes]`. The dropout masks are a function of the network's seed and `iteration`.
    ///
    /// # Errors
    ///
    /// If the shape of images or labels does not fit the network, if their numbers differ, or if there is no image.
    pub fn training_loss(&self, images: &Tensor, labels: &Tensor, iteration: u64) -> Result<Loss> {
        if images.size().first() == Some(&0) {
            return Err(Error::data("images", "at least one image to compute a mean loss of", "none"));
        }
        let mut blocks = Vec::new();
        let training = Some(Training { iteration, blocks: &mut blocks });
        let logits = self.run(images, training, |_, _| {})?;
        if labels.size() != logits.size() {
            let expected = format!("one-hot labels of shape {:?}", logits.size());
            return Err(Error::data("labels", expected, format!("{:?}", labels.size())));
        }
        let _one_thread = OneThread::begin();
        let labels = labels.to_device(self.device);
        let loss = logits.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0);
        Ok(Loss::new(loss.map_err(torch("softmax_classifier"))?, blocks))
    }

    /// Computes the activations of every named layer for a batch, after the max-pooling that follows the layer, if there is one.
    /// Those of the classifier are the probabilities.
    ///
    /// Images are `[batch, height, width, channels]`, rows `[batch, features]`.
    ///
    /// # Errors
    ///
    /// As [`Network::predict`].
    pub fn activations(&self, images: &Tensor) -> Result<Vec<(String, ArrayD<f32>)>> {
        let _no_grad = tch::no_grad_guard();
        let mut activations: Vec<(String, Tensor)> = Vec::new();
        let logits = self.run(images, None, |layer, value| {
            match (self.description.layers[layer].name(), activations.last_mut()) {
                (Some(name), Some((last, activation))) if name == last.as_str() => *activation = value.shallow_clone(),
                (Some(name), _) => activations.push((name.to_owned(), value.shallow_clone())),
                (None, Some((_, activation))) if value.dim() == activation.dim() => *activation = value.shallow_clone(),
                (None, _) => {}
            }
        })?;
        let _one_thread = OneThread::begin();
        if let Some((_, classifier)) = activations.last_mut() {
            *classifier = logits.f_softmax(-1, Kind::Float).map_err(torch("softmax_classifier"))?;
        }
        let array = |(name, value): (String, Tensor)| {
            let value = if value.dim() == 4 { value.permute([0, 2, 3, 1]) } else { value };
            let value = (&value.contiguous().to_device(Device::Cpu)).try_into().map_err(torch(&name))?;
            Ok((name, value))
        };
        activations.into_iter().map(array).collect()
    }

    /// Runs all operations on a batch. `observe` is called with the layer and the result of each.
    fn run(
        &self,
        images: &Tensor,
        mut training: Option<Training>,
        mut observe: impl FnMut(usize, &Tensor),
    ) -> Result<Tensor> {
        let one_thread = OneThread::begin();
        let mut generator = training.as_ref().map(|training| stream(self.seed, Purpose::Dropout, training.iteration));
        let mut value = self.channels_last_images(images)?;
        for (layer, op) in &self.plan.ops {
            let blocks = training.as_mut().map(|training| &mut *training.blocks);
            let threads = one_thread.threads();
            let result = match (op, &mut generator) {
                (Op::Dropout { rate }, Some(generator)) => drop_out(&value, *rate, generator),
                (Op::Dropout { .. }, None) => continue,
                (Op::ConvPool { weight, conv_pool }, _) => {
                    let layer = self.description.layers[*layer].name().unwrap_or_default();
                    self.convolve_and_pool(&value, (layer, *weight), conv_pool, threads, blocks)
                }
                (Op::Dense { weight, dense }, _) => {
                    let layer = self.description.layers[*layer].name().unwrap_or_default();
                    self.multiply(&value, (layer, *weight), dense, threads, blocks)
                }
                _ => apply(op, &value, &self.variables),
            };
            value = result.map_err(|source| {
                let layer = &self.description.layers[*layer];
                torch(layer.name().unwrap_or(layer.kind()))(source)
            })?;
            observe(*layer, &value);
        }
        Ok(value)
    }

    /// Runs one of our kernels. In training, records what its gradient needs.
    fn convolve_and_pool(
        &self,
        value: &Tensor,
        (layer, weight): (&str, usize),
        conv_pool: &ConvPool,
        threads: usize,
        blocks: Option<&mut Vec<Block>>,
    ) -> Result<Tensor, TchError> {
        let input = value.f_permute([0, 2, 3, 1])?.f_contiguous()?;
        let [height, width, channels] = conv_pool.output().map(|size| size as i64);
        let mut output = Tensor::f_empty([input.size()[0], height, width, channels], (Kind::Float, Device::Cpu))?;
        let [weight, bias] = [weight, weight + 1].map(|index| self.variables.view(index));
        let blocks = blocks.filter(|_| input.requires_grad() || weight.requires_grad());
        let mut winners = blocks.as_ref().map(|_| vec![0; output.numel()]);
        let weight_in_memory = in_memory_order(weight);
        // SAFETY: the output was created above and shares memory with nothing. Images and variables are only read until the
        // kernel is done; an owner of a tensor that shares their memory must not modify it on another thread meanwhile, as with
        // libtorch's operations.
        let (read, written) =
            unsafe { ([values(&input), values(&weight_in_memory), values(bias)], values_mut(&mut output)) };
        let [images, weight_values, bias_values] = read;
        conv_pool.forward(images, [weight_values, bias_values], threads, written, winners.as_deref_mut());
        if let (Some(blocks), Some(winners)) = (blocks, winners) {
            output = output.f_set_requires_grad(true)?;
            let kernel = Kernel::ConvPool { conv_pool: conv_pool.clone(), winners };
            blocks.push(Block::new(kernel, layer, [weight, bias, &input], &output)?);
        }
        output.f_permute([0, 3, 1, 2])
    }

    /// Runs a fully-connected layer on our kernel. In training, records what its gradient needs.
    fn multiply(
        &self,
        value: &Tensor,
        (layer, weight): (&str, usize),
        dense: &Dense,
        threads: usize,
        blocks: Option<&mut Vec<Block>>,
    ) -> Result<Tensor, TchError> {
        let input = value.f_contiguous()?;
        let mut output = Tensor::f_empty([input.size()[0], dense.outputs() as i64], (Kind::Float, Device::Cpu))?;
        let [weight, bias] = [weight, weight + 1].map(|index| self.variables.view(index));
        let weight_in_memory = in_memory_order(weight);
        // SAFETY: as in `convolve_and_pool`.
        let (read, written) =
            unsafe { ([values(&input), values(&weight_in_memory), values(bias)], values_mut(&mut output)) };
        let [rows, weight_values, bias_values] = read;
        dense.forward(rows, [weight_values, bias_values], threads, written);
        if let Some(blocks) = blocks.filter(|_| input.requires_grad() || weight.requires_grad()) {
            output = output.f_set_requires_grad(true)?;
            blocks.push(Block::new(Kernel::Dense(dense.clone()), layer, [weight, bias, &input], &output)?);
        }
        Ok(output)
    }

    /// Returns images as `[batch, channels, height, width]`, which lie in memory as `[batch, height, width, channels]`.
    fn channels_last_images(&self, images: &Tensor) -> Result<Tensor> {
        let [height, width, channels] = self.description.input.map(|size| size as i64);
        let size = images.size();
        let fits = match size[..] {
            [_, h, w, c] => [h, w, c] == [height, width, channels],
            [_, flat] => flat == height * width * channels,
            _ => false,
        };
        if !fits {
            let expected = format!(
                "[batch, {height}, {width}, {channels}] or [batch, {}] (height, width, channels)",
                height * width * channels
            );
            return Err(Error::data("images", expected, format!("{size:?}")));
        }
        let images = images.f_to_device(self.device).and_then(|images| images.f_to_kind(Kind::Float));
        let images = images.and_then(|images| images.f_reshape([size[0], height, width, channels]));
        images.and_then(|images| images.f_permute([0, 3, 1, 2])).map_err(torch("images"))
    }
}

/// What a forward pass needs in training only.
struct Training<'a> {
    iteration: u64,
    blocks: &'a mut Vec<Block>,
}

/// Runs an operation by libtorch.
fn apply(op: &Op, value: &Tensor, variables: &Variables) -> Result<Tensor, TchError> {
    match *op {
        Op::Convolve { weight, stride, pads } => {
            let [left, right, top, bottom] = pads;
            let [weight, bias] = weight_and_bias(variables, weight);
            if left == right && top == bottom {
                value.f_conv2d(weight, Some(bias), [stride; 2], [top, left], [1, 1], 1)
            } else {
                value.f_constant_pad_nd(pads)?.f_conv2d(weight, Some(bias), [stride; 2], [0, 0], [1, 1], 1)
            }
        }
        Op::MaxPool { kernel, stride, pads } => {
            let value = if pads == [0; 4] { value.shallow_clone() } else { pad_with_lowest(value, pads)? };
            value.f_max_pool2d([kernel; 2], [stride; 2], [0, 0], [1, 1], false)
        }
        Op::Activate(Activation::Relu) => value.f_relu(),
        Op::Activate(Activation::Tanh) => value.f_tanh(),
        Op::Activate(Activation::Sigmoid) => value.f_sigmoid(),
        Op::Activate(Activation::Linear) | Op::Dropout { .. } | Op::ConvPool { .. } | Op::Dense { .. } => {
            Ok(value.shallow_clone())
        }
        Op::Flatten => rows_in_memory_order(value),
        Op::Multiply { weight } => {
            let [weight, bias] = weight_and_bias(variables, weight);
            let weight = if weight.dim() == 4 { rows_in_memory_order(weight)? } else { weight.shallow_clone() };
            value.f_linear(&weight, Some(bias))
        }
    }
}

/// Returns the variables of a layer.
fn weight_and_bias(variables: &Variables, weight: usize) -> [&Tensor; 2] {
    [weight, weight + 1].map(|index| variables.view(index))
}

/// Turns `[n, channels, height, width]` into `[n, height * width * channels]`, which moves nothing in channels-last memory.
fn rows_in_memory_order(value: &Tensor) -> Result<Tensor, TchError> {
    value.f_permute([0, 2, 3, 1])?.f_flatten(1, -1)
}

/// Adds a border that no maximum can come from.
fn pad_with_lowest(value: &Tensor, pads: Pads) -> Result<Tensor, TchError> {
    value.f_pad(pads, "constant", f64::NEG_INFINITY)
}

fn drop_out(value: &Tensor, rate: f64, generator: &mut impl Rng) -> Result<Tensor, TchError> {
    let scale = (1.0 / (1.0 - rate)) as f32;
    let mask = (0..value.numel()).map(|_| if generator.r#gen::<f32>() < rate as f32 { 0.0 } else { scale });
    let mask = Tensor::f_from_slice(&mask.collect::<Vec<_>>())?.f_reshape(value.size())?;
    value.f_mul(&mask.f_to_device(value.device())?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tutorial;
    use super::super::{Conv2d, MaxPool, Padding};
    use super::*;

    fn images(count: i64) -> Tensor {
        let values = (0..count * 784).map(|index| (index * 7919 % 256) as f32 / 255.0).collect::<Vec<_>>();
        Tensor::from_slice(&values).reshape([count, 28, 28, 1])
    }

    fn variable(network: &Network, name: &str) -> Tensor {
        network.variables().values(name).unwrap().try_into().unwrap()
    }

    /// The tutorial's network as libtorch's textbook has it: row-major, ReLU before max-pooling.
    fn textbook(network: &Network, images: &Tensor) -> Tensor {
        let block = |x: Tensor, name: &str| {
            let [weight, bias] = ["weight", "bias"].map(|kind| variable(network, &format!("{name}.{kind}")));
            x.conv2d(&weight, Some(&bias), [1, 1], [2, 2], [1, 1], 1).relu().max_pool2d(
                [2, 2],
                [2, 2],
                [0, 0],
                [1, 1],
                false,
            )
        };
        let dense = |x: Tensor, name: &str| {
            let [weight, bias] = ["weight", "bias"].map(|kind| variable(network, &format!("{name}.{kind}")));
            x.linear(&weight, Some(&bias))
        };
        let x = block(images.permute([0, 3, 1, 2]).contiguous(), "layer_conv1");
        let x = block(x, "layer_conv2").flatten(1, -1);
        dense(dense(x, "layer_fc1").relu(), "softmax_classifier")
    }

    #[test]
    fn logits_are_those_of_the_textbook() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let (found, expected) = (network.logits(&images(3)).unwrap(), textbook(&network, &images(3)));
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn flat_images_are_the_same_images() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let flat = network.logits(&images(2).reshape([2, 784])).unwrap();
        assert_eq!(flat, network.logits(&images(2)).unwrap());
    }

    #[test]
    fn images_stay_channels_last_from_end_to_end() {
        if crate::kernels::libtorch_instructions() == "default" {
            return; // libtorch's convolutions for processors without AVX2 give another order.
        }
        let network = tutorial().build(Device::Cpu).unwrap();
        let mut strides = Vec::new();
        let observe = |_: usize, value: &Tensor| {
            strides.push(value.stride());
        };
        let _ = network.run(&images(2), None, observe).unwrap();
        // The channels lie side by side.
        for (stride, channels) in strides.iter().zip([16, 36]) {
            assert_eq!((stride[1], stride[3]), (1, channels), "{strides:?}");
        }
    }

    #[test]
    fn pooling_before_relu_gives_the_same_bits() {
        let value = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let factors = Tensor::randn([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        let pool = |value: &Tensor| value.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
        let [as_written, as_run] = [pool(&value.relu()), pool(&value).relu()];
        assert_eq!(as_written, as_run);
        let gradient =
            |result: &Tensor| Tensor::run_backward(&[(result * &factors).sum(Kind::Float)], &[&value], true, false);
        assert_eq!(gradient(&as_written), gradient(&as_run));
    }

    #[test]
    fn uneven_same_padding_is_tensorflows() {
        let network = Network::builder([3, 3, 1])
            .layer(Conv2d::new(2, 1, "conv").activation(Activation::Linear))
            .layer(MaxPool::new(2, 2))
            .flatten()
            .softmax_classifier(2)
            .build(Device::Cpu)
            .unwrap();
        {
            let _no_grad = tch::no_grad_guard();
            let _ = network.variables().view(0).shallow_clone().fill_(1.0);
        }
        let image = Tensor::from_slice(&[1.0f32, 2., 3., 4., 5., 6., 7., 8., -9.]).reshape([1, 3, 3, 1]);
        let activations = network.activations(&image).unwrap();
        // Sums of 2 x 2 windows, with a border of zeros below and to the right: [12 16 9; 24 10 -3; 15 -1 -9].
        // Their maxima, with a border that no maximum comes from: [24 9; 15 -9].
        assert_eq!(activations[0].1.iter().copied().collect::<Vec<_>>(), [24., 9., 15., -9.]);
    }

    #[test]
    fn other_chains_run_too() {
        let network = Network::builder([28, 28, 1])
            .default_activation(Activation::Tanh)
            .layer(Conv2d::new(3, 8, "layer_conv1").stride(2).padding(Padding::Valid).activation(Activation::Sigmoid))
            .conv2d(4, 12, "layer_conv2")
            .layer(MaxPool::new(3, 2).padding(Padding::Valid))
            .dropout(0.5)
            .flatten()
            .fully_connected(20, "layer_fc1")
            .fully_connected(10, "layer_fc2")
            .softmax_classifier(4)
            .build(Device::Cpu)
            .unwrap();
        let sums = network.predict(&images(5)).unwrap().sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        assert!((sums - 1.0).abs().max().double_value(&[]) < 1e-6);
        let shapes =
            network.activations(&images(5)).unwrap().into_iter().map(|(name, value)| (name, value.shape().to_vec()));
        let expected: [(&str, &[usize]); 5] = [
            ("layer_conv1", &[5, 13, 13, 8]),
            ("layer_conv2", &[5, 6, 6, 12]),
            ("layer_fc1", &[5, 20]),
            ("layer_fc2", &[5, 10]),
            ("softmax_classifier", &[5, 4]),
        ];
        assert_eq!(shapes.collect::<Vec<_>>(), expected.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    }

    #[test]
    fn dropout_is_a_function_of_seed_and_iteration_and_works_in_training_alone() {
        let network = |seed| Network::builder([28, 28, 1]).flatten().dropout(0.5).softmax_classifier(10).seed(seed);
        let network = |seed| network(seed).build(Device::Cpu).unwrap();
        let labels = Tensor::eye(10, (Kind::Float, Device::Cpu));
        let loss =
            |seed, iteration| network(seed).training_loss(&images(10), &labels, iteration).unwrap().double_value(&[]);
        assert_eq!(loss(1, 1), loss(1, 1));
        assert_ne!(loss(1, 1), loss(1, 2));
        let network = network(1);
        assert_eq!(network.logits(&images(10)).unwrap(), network.logits(&images(10)).unwrap());
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let mut generator = stream(3, Purpose::Dropout, 1);
        let dropped = drop_out(&Tensor::ones([100_000], (Kind::Float, Device::Cpu)), 0.2, &mut generator).unwrap();
        assert!((dropped.mean(Kind::Float).double_value(&[]) - 1.0).abs() < 0.01);
        let zeros = dropped.eq(0.0).sum(Kind::Int64).int64_value(&[]);
        assert!((19_000..21_000).contains(&zeros), "{zeros}");
    }

    /// Networks on our kernels alone, on libtorch's alone, and on both.
    #[test]
    fn no_images_have_no_predictions() {
        let mixed = Network::builder([28, 28, 1])
            .layer(Conv2d::new(3, 4, "conv1").stride(2))
            .conv2d(3, 9, "conv2")
            .max_pool(2, 2)
            .dropout(0.5)
            .flatten()
            .softmax_classifier(10);
        let other = tutorial().default_activation(Activation::Tanh);
        for network in [tutorial(), other, mixed] {
            let network = network.build(Device::Cpu).unwrap();
            for none in [images(0), images(0).reshape([0, 784])] {
                assert_eq!(network.predict(&none).unwrap().size(), [0, 10]);
                assert_eq!(network.logits(&none).unwrap().size(), [0, 10]);
                for ((name, none), (_, one)) in
                    network.activations(&none).unwrap().iter().zip(network.activations(&images(1)).unwrap())
                {
                    assert_eq!((none.shape()[0], &none.shape()[1..]), (0, &one.shape()[1..]), "{name}");
                }
                let labels = Tensor::zeros([0, 10], (Kind::Float, Device::Cpu));
                let message = network.training_loss(&none, &labels, 1).unwrap_err().to_string();
                assert_eq!(message, "images: expected at least one image to compute a mean loss of, found none");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let message = network.predict(&images(1).reshape([1, 1, 28, 28])).unwrap_err().to_string();
        let expected =
            "images: expected [batch, 28, 28, 1] or [batch, 784] (height, width, channels), found [1, 1, 28, 28]";
        assert_eq!(message, expected);
        let labels = Tensor::zeros([2, 9], (Kind::Float, Device::Cpu));
        let message = network.training_loss(&images(2), &labels, 1).unwrap_err().to_string();
        assert_eq!(message, "labels: expected one-hot labels of shape [2, 10], found [2, 9]");
    }
}
