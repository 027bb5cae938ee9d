<?php
// WordPress's settings. Where the database is, is in a file that rewire writes; the
// password is a secret. Nothing else is particular to where this runs.
$database = trim((string) @file_get_contents('/tmp/database'));
if ($database === '') {
    // Nobody is served by an error page that search engines remember.
    header('HTTP/1.1 503 Service Unavailable');
    header('Retry-After: 1');
    exit("The database is away for a moment.\n");
}
define('DB_HOST', $database);
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', rtrim(file_get_contents('/run/secrets/wordpress'), "\n"));
define('DB_CHARSET', 'utf8mb4');

// The blog is wherever it is asked for: behind a route, a port or a proxy.
if (isset($_SERVER['HTTP_HOST'])) {
    $scheme = empty($_SERVER['HTTPS']) ? 'http' : 'https';
    define('WP_HOME', "$scheme://{$_SERVER['HTTP_HOST']}");
    define('WP_SITEURL', WP_HOME);
}

// The program is the image's and is not changed from within; nobody is told of us.
define('DISALLOW_FILE_MODS', true);
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('WP_CONTENT_DIR', '/var/lib/wordpress/wp-content');
define('WP_MEMORY_LIMIT', '96M');
