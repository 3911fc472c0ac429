"""The tutorial's job in Keras on TensorFlow, as Keras's guide "Writing a training loop from scratch" writes it.

That was the fastest of what its documentation offers: `train_on_batch` and `fit` are a tenth slower, `predict` and
`jit_compile` more so.
"""

import os
import platform

from protocol import Batches, Data, serve, settings

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

SETTINGS = settings()
# Of 256 and 1,000 the faster one.
VALIDATION_BATCH = 1_000


def network(channels):
    he = keras.initializers.HeNormal
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(channels(16), 5, padding="same", activation="relu", kernel_initializer=he()),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(channels(36), 5, padding="same", activation="relu", kernel_initializer=he()),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(channels(128), activation="relu", kernel_initializer=he()),
            keras.layers.Dense(10),
        ]
    )


class Worker:
    def __init__(self):
        data = Data(SETTINGS)
        self.train_images = tf.constant(data.train_images[..., np.newaxis])
        self.train_labels = tf.constant(data.train_labels)
        self.validation = tf.data.Dataset.from_tensor_slices(
            (data.validation_images[..., np.newaxis], data.validation_labels)
        ).batch(VALIDATION_BATCH)
        self.batches = Batches(data.order, SETTINGS.batch)
        model = network(SETTINGS.channels)
        optimizer = keras.optimizers.Adam(learning_rate=1e-4)
        loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        accuracy = keras.metrics.SparseCategoricalAccuracy()
        # So that the file has the optimizer's state too.
        model.compile(optimizer, loss_fn)
        optimizer.build(model.trainable_variables)

        @tf.function
        def train_step(x, y):
            with tf.GradientTape() as tape:
                logits = model(x, training=True)
                loss_value = loss_fn(y, logits)
            grads = tape.gradient(loss_value, model.trainable_weights)
            optimizer.apply(grads, model.trainable_weights)
            return loss_value

        @tf.function
        def test_step(x, y):
            accuracy.update_state(y, model(x, training=False))

        self.model, self.accuracy, self.train_step, self.test_step = model, accuracy, train_step, test_step

    def train(self, iterations):
        for _ in range(iterations):
            batch = self.batches.take()
            self.train_step(tf.gather(self.train_images, batch), tf.gather(self.train_labels, batch))

    def validate(self):
        self.accuracy.reset_state()
        for x, y in self.validation:
            self.test_step(x, y)
        return float(self.accuracy.result())

    def save(self):
        self.model.save(SETTINGS.saves / "state.keras")


if SETTINGS.threads is not None:
    tf.config.threading.set_intra_op_parallelism_threads(SETTINGS.threads)
serve(
    Worker(),
    threads=tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
    validation_batch=VALIDATION_BATCH,
    versions={"Keras": keras.__version__, "TensorFlow": tf.__version__, "Python": platform.python_version()},
)
