//! The tutorial's network.

use earlystop::Network;
use earlystop::network::NetworkBuilder;

pub(crate) fn tutorial() -> NetworkBuilder {
    Network::builder([28, 28, 1])
        .conv2d(5, 16, "layer_conv1")
        .max_pool(2, 2)
        .conv2d(5, 36, "layer_conv2")
        .max_pool(2, 2)
        .flatten()
        .fully_connected(128, "layer_fc1")
        .softmax_classifier(10)
}
