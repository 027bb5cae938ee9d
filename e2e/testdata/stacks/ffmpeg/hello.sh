ffmpeg -v error -f lavfi -i sine=duration=1 -f wav - | wc -c >/dev/null && echo hello from ffmpeg
