<?php echo json_encode(["text" => mb_strtolower("HELLO FROM PHP")]);
