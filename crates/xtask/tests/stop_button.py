"""Interrupts a kernel, which ends the process of the cells, and prints what a panic in the next one writes to stderr."""

from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(startup_timeout=300, kernel_name="rust")
told = []


def keep(message):
    if message["msg_type"] == "stream" and message["content"]["name"] == "stderr":
        told.append(message["content"]["text"])
    if message["msg_type"] == "stream" and "begins" in message["content"]["text"]:
        manager.interrupt_kernel()


try:
    client.execute_interactive('println!("{}", 1 + 1);', output_hook=keep)
    client.execute_interactive('println!("begins"); loop { std::thread::yield_now(); }', output_hook=keep)
    client.execute_interactive('panic!("the second process");', output_hook=keep)
    client.execute_interactive('eprintln!("the last line");', output_hook=keep)
    # The kernel sends stderr in order, but also after it has called the cell finished.
    while not any("the last line" in text for text in told):
        keep(client.get_iopub_msg(timeout=60))
finally:
    client.stop_channels()
    manager.shutdown_kernel()
print("".join(told))
