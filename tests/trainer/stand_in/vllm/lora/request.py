from typing import Any

from vllm_names import RECORDED, signature


class LoRARequest:
    def __init__(self, *args: Any, **given: Any) -> None:
        self.given = signature(RECORDED["fields"]["LoRARequest"]).bind(*args, **given).arguments
        if self.given["lora_int_id"] < 1 or not self.given["lora_path"]:
            raise ValueError("an id from 1 and a path are needed")
