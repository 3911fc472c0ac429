//! Draws a network from left to right: an image, the output of each layer, and the class.

mod part;

use super::Figure;
use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, TICK_SIZE};
use super::colormap::{BLACK, MUTED};
use crate::{Error, Result};
use ndarray::{Array4, ArrayBase, ArrayD, ArrayView3, Data, Ix2, Ix3, s};
use part::{Body, Part, TEXT_LINE};

/// The shortest arrow, and the white at its two ends.
const ARROW: f64 = 26.0;
const ARROW_GAP: f64 = 6.0;
/// The white between words side by side.
const WORD_GAP: f64 = 14.0;

/// One layer of a network, as it is to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowLayer {
    /// The name: "layer_conv1", or for a layer without weights what it does: "max_pool 2×2".
    pub name: String,
    /// What the layer is.
    pub kind: FlowKind,
    /// The shape of its output for one image: `[height, width, channels]` or `[features]`.
    pub shape: Vec<usize>,
    /// What it gives for the image, in that shape, if that is to be drawn. A convolution's may also be what the pooling
    /// after it gives. Channels and features are drawn as ink, black the largest, white zero; the last layer's are
    /// probabilities.
    pub activations: Option<ArrayD<f32>>,
}

/// What a layer of a [flowchart](network_flowchart) is.
#[derive(Debug, Clone, PartialEq)]
pub enum FlowKind {
    /// A convolution, with its filters `[height, width, channels_in, channels_out]`.
    Convolution(Array4<f32>),
    /// A fully-connected layer.
    FullyConnected,
    /// A layer without weights, such as pooling or flattening: its name stands at an arrow.
    Passing,
}

/// Draws a network as a flowchart: the image, each convolution's filters and the channels they give, each
/// fully-connected layer's features, and the classes, with the predicted one circled.
///
/// `image` is `[height, width]`, pixels 0-255. Of many filters, channels, features or classes only the first are drawn
/// (of features and classes also the last), and the chart says so.
///
/// # Errors
///
/// If there are no layers, or one's shape does not fit its filters or activations.
///
/// ```
/// use earlystop::plot::{FlowKind, FlowLayer, network_flowchart};
/// use ndarray::{Array2, Array4};
///
/// let layer = |name: &str, kind, shape: &[usize]| FlowLayer {
///     name: name.into(),
///     kind,
///     shape: shape.to_vec(),
///     activations: None,
/// };
/// let figure = network_flowchart(
///     &Array2::zeros((28, 28)),
///     &[
///         layer("layer_conv1", FlowKind::Convolution(Array4::zeros((5, 5, 1, 16))), &[28, 28, 16]),
///         layer("max_pool", FlowKind::Passing, &[14, 14, 16]),
///         layer("flatten", FlowKind::Passing, &[3136]),
///         layer("softmax", FlowKind::FullyConnected, &[10]),
///     ],
/// )?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn network_flowchart(image: &ArrayBase<impl Data<Elem = u8>, Ix2>, layers: &[FlowLayer]) -> Result<Figure> {
    if image.is_empty() {
        return Err(Error::data("image", "[height, width] with pixels", format!("{:?}", image.shape())));
    }
    if layers.is_empty() {
        return Err(Error::data("layers", "at least one", "none"));
    }
    layers.iter().try_for_each(FlowLayer::check)?;
    let (height, width) = image.dim();
    let mut parts = vec![Part {
        title: "input image".into(),
        notes: vec![pixels(height, width)],
        ..Part::new(Body::image(image.view()))
    }];
    // Names of passing layers, for the next arrow; and the image that has been computed, but not drawn.
    let mut passed = Vec::new();
    let mut channels: Option<(&[usize], Option<&ArrayD<f32>>)> = None;
    let last = layers.len() - 1;
    for (i, layer) in layers.iter().enumerate() {
        let activations = layer.activations.as_ref();
        match (&layer.kind, layer.shape.as_slice(), channels) {
            (FlowKind::Passing, [_, _, _], Some((_, given))) => {
                passed.push(layer.name.clone());
                channels = Some((&layer.shape, activations.or(given)));
                continue;
            }
            (FlowKind::Passing, ..) => {
                parts.extend(channels_part(channels.take(), &mut passed)?);
                passed.push(layer.name.clone());
                continue;
            }
            _ => parts.extend(channels_part(channels.take(), &mut passed)?),
        }
        let arrow = std::mem::take(&mut passed);
        match &layer.kind {
            FlowKind::Convolution(filters) => {
                parts.push(Part { title: layer.name.clone(), arrow, ..filters_part(filters) });
                channels = Some((&layer.shape, activations));
            }
            _ if i == last => {
                let (outputs, classes) = part::classes(layer.shape[0], activations);
                let notes = vec![format!("{} classes", layer.shape[0])];
                parts.push(Part { title: layer.name.clone(), notes, arrow, ..outputs });
                parts.push(Part { title: "class".into(), ..classes });
            }
            _ => {
                let notes = vec![format!("{} features", layer.shape[0])];
                let body = part::features(layer.shape[0], activations);
                parts.push(Part { title: layer.name.clone(), notes, arrow, ..body });
            }
        }
    }
    parts.extend(channels_part(channels, &mut passed)?);
    Ok(draw(&parts))
}

impl FlowLayer {
    fn check(&self) -> Result<()> {
        let refuse = |what: &str, expected: String| {
            Err(Error::data(format!("{what} of {:?}", self.name), expected, format!("{:?}", self.shape)))
        };
        match &self.kind {
            _ if self.shape.contains(&0) => refuse("shape", "no 0".into()),
            FlowKind::Convolution(filters)
                if filters.is_empty() || self.shape.len() != 3 || filters.dim().3 != self.shape[2] =>
            {
                refuse("shape", format!("[height, width, channels] for filters {:?}", filters.shape()))
            }
            FlowKind::FullyConnected if self.shape.len() != 1 => refuse("shape", "[features]".into()),
            FlowKind::FullyConnected => match &self.activations {
                Some(activations) if activations.shape() != self.shape => {
                    refuse("shape", format!("{:?}, that of the activations", activations.shape()))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn filters_part(filters: &Array4<f32>) -> Part<'_> {
    let (height, width, channels_in, channels_out) = filters.dim();
    let shown = channels_out.min(part::MOST_IN_GRID);
    Part {
        notes: vec![format!("{channels_out} filters"), pixels(height, width)],
        below: (shown < channels_out).then(|| format!("the first {shown}")),
        ..Part::new(Body::Filters { filters: filters.slice(s![.., .., .., ..shown]), channels_in })
    }
}

/// Draws an image that was computed, if there is one: at its arrow stand the layers that were passed since the last
/// part.
fn channels_part<'a>(
    channels: Option<(&'a [usize], Option<&'a ArrayD<f32>>)>,
    passed: &mut Vec<String>,
) -> Result<Option<Part<'a>>> {
    let Some((shape, activations)) = channels else { return Ok(None) };
    let (height, width, len) = (shape[0], shape[1], shape[2]);
    let activations: Option<ArrayView3<f32>> = match activations {
        Some(activations) if activations.shape() == shape => activations.view().into_dimensionality::<Ix3>().ok(),
        Some(other) => {
            return Err(Error::data(
                "activations of a convolution",
                format!("{shape:?}"),
                format!("{:?}", other.shape()),
            ));
        }
        None => None,
    };
    let shown = len.min(part::MOST_IN_GRID);
    let body = Body::channels(activations.map(|all| all.slice_move(s![.., .., ..shown])), (height, width), shown);
    Ok(Some(Part {
        title: format!("{len} channels"),
        notes: vec![pixels(height, width)],
        below: (shown < len).then(|| format!("the first {shown}")),
        arrow: std::mem::take(passed),
        ..Part::new(body)
    }))
}

fn pixels(height: usize, width: usize) -> String {
    format!("{height}×{width} pixels")
}

/// Draws parts from left to right, all centered at one height, with arrows between.
fn draw(parts: &[Part]) -> Figure {
    let half = |part: &Part| part.body.size().1 / 2.0;
    let above = parts.iter().map(|part| half(part) + part.height_above()).fold(0.0, f64::max);
    let below = parts.iter().map(|part| half(part) + part.height_below()).fold(0.0, f64::max);
    let centers = centers(parts);
    let right = parts.iter().zip(&centers).map(|(part, center)| center + part.width() / 2.0).fold(0.0, f64::max);
    let mut canvas = Canvas::new(right + MARGIN, above + below + 2.0 * MARGIN);
    let middle = (MARGIN + above).round();
    let mut arrow_start = 0.0;
    for (i, (part, &center)) in parts.iter().zip(&centers).enumerate() {
        let (body_width, body_height) = part.body.size();
        let (left, top) = ((center - body_width / 2.0).round(), (middle - body_height / 2.0).round());
        if i > 0 {
            let (end, y) = (left - ARROW_GAP, middle + part.arrow_offset());
            canvas.arrow((arrow_start, y), end - arrow_start, BLACK);
            for (line, name) in part.arrow.iter().rev().enumerate() {
                let at = ((arrow_start + end) / 2.0, y - 12.0 - line as f64 * (TICK_SIZE + 4.0));
                canvas.text(name, at, Align::Center, TICK_SIZE, MUTED);
            }
        }
        arrow_start = left + body_width + ARROW_GAP;

        part.body.draw(&mut canvas, (left, top));
        let title_y = top - part.height_above() + TEXT_LINE / 2.0;
        canvas.text(&part.title, (center, title_y), Align::Center, LABEL_SIZE, BLACK);
        for (line, note) in part.notes.iter().enumerate() {
            let y = title_y + (line + 1) as f64 * TEXT_LINE;
            canvas.text(note, (center, y), Align::Center, TICK_SIZE, MUTED);
        }
        if let Some(below) = &part.below {
            let y = top + body_height + 3.0 + TEXT_LINE / 2.0;
            canvas.text(below, (center, y), Align::Center, TICK_SIZE, MUTED);
        }
    }
    let titles: Vec<_> = parts.iter().map(|part| part.title.as_str()).collect();
    canvas.finish(format!("Flowchart of the network: {}", titles.join(", ")))
}

/// Places parts: there is space for the arrow between two bodies, and for what stands at it between the words above
/// them.
fn centers(parts: &[Part]) -> Vec<f64> {
    let mut centers = vec![MARGIN + parts[0].width() / 2.0];
    for pair in parts.windows(2) {
        let (from, to) = (&pair[0], &pair[1]);
        let names = to.arrow_names_width();
        let bodies = (from.body.size().0 + to.body.size().0) / 2.0 + names.max(ARROW) + 2.0 * ARROW_GAP;
        let words = (from.width() + to.width()) / 2.0 + names.max(WORD_GAP);
        centers.push((centers[centers.len() - 1] + bodies.max(words)).round());
    }
    centers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::figure::tests::assert_margins_are_white;
    use ndarray::Array2;

    fn layer(name: &str, kind: FlowKind, shape: &[usize]) -> FlowLayer {
        FlowLayer { name: name.into(), kind, shape: shape.to_vec(), activations: None }
    }

    fn convolution(shape: (usize, usize, usize, usize)) -> FlowKind {
        FlowKind::Convolution(Array4::from_elem(shape, 0.1))
    }

    fn filled(shape: &[usize], value: f32) -> Option<ArrayD<f32>> {
        Some(ArrayD::from_elem(shape, value))
    }

    fn chart(layers: &[FlowLayer]) -> Result<Figure> {
        network_flowchart(&Array2::zeros((28, 28)), layers)
    }

    #[test]
    fn every_kind_of_chain_fits() {
        use FlowKind::{FullyConnected, Passing};
        let many = layer("conv", convolution((3, 3, 1, 100)), &[28, 28, 100]);
        let long = "a_layer_with_a_very_long_name_that_is_wider_than_all_it_does";
        let chains = [
            vec![layer("classifier", FullyConnected, &[10])],
            vec![many.clone()],
            vec![many, layer("conv", convolution((28, 28, 100, 1)), &[1, 1, 1]), layer(long, FullyConnected, &[2])],
            vec![
                layer("pool", Passing, &[2, 2, 1]),
                layer("flatten", Passing, &[4]),
                layer("dense", FullyConnected, &[1000]),
            ],
            vec![layer(long, Passing, &[784]), layer(long, Passing, &[784]), layer("dense", FullyConnected, &[1])],
            vec![layer("flatten", Passing, &[784])],
        ];
        for chain in chains {
            assert_margins_are_white(&chart(&chain).unwrap());
        }
    }

    #[test]
    fn activations_of_a_convolution_may_be_those_after_its_pooling() {
        let mut convolution = layer("conv", convolution((5, 5, 1, 4)), &[28, 28, 4]);
        let pool = layer("pool", FlowKind::Passing, &[14, 14, 4]);
        convolution.activations = filled(&[14, 14, 4], 1.0);
        chart(&[convolution.clone(), pool.clone()]).unwrap();
        convolution.activations = filled(&[7, 7, 4], 1.0);
        let error = chart(&[convolution, pool]).unwrap_err().to_string();
        assert_eq!(error, "activations of a convolution: expected [14, 14, 4], found [7, 7, 4]");
    }

    #[test]
    fn activations_that_are_not_finite_can_be_drawn() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
            let mut convolution = layer("conv", convolution((5, 5, 1, 4)), &[28, 28, 4]);
            convolution.activations = filled(&[28, 28, 4], value);
            let mut hidden = layer("hidden", FlowKind::FullyConnected, &[4]);
            hidden.activations = filled(&[4], value);
            let mut classifier = layer("classifier", FlowKind::FullyConnected, &[30]);
            classifier.activations = filled(&[30], value);
            assert_margins_are_white(&chart(&[convolution, hidden, classifier]).unwrap());
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |layers: &[FlowLayer]| chart(layers).unwrap_err().to_string();
        assert_eq!(message(&[]), "layers: expected at least one, found none");
        let error = message(&[layer("conv", convolution((5, 5, 1, 4)), &[28, 28, 5])]);
        assert_eq!(
            error,
            r#"shape of "conv": expected [height, width, channels] for filters [5, 5, 1, 4], found [28, 28, 5]"#
        );
        let mut hidden = layer("hidden", FlowKind::FullyConnected, &[4]);
        hidden.activations = filled(&[5], 1.0);
        assert_eq!(message(&[hidden]), r#"shape of "hidden": expected [5], that of the activations, found [4]"#);
        let error = message(&[layer("hidden", FlowKind::FullyConnected, &[0])]);
        assert_eq!(error, r#"shape of "hidden": expected no 0, found [0]"#);
    }
}
