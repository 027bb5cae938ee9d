need npm "add the package npm to it"
export NPM_CONFIG_UPDATE_NOTIFIER=false NPM_CONFIG_FUND=false NPM_CONFIG_AUDIT=false NPM_CONFIG_PROGRESS=false
# Where nothing can be reached, somebody is told so after seconds instead of a minute.
export NPM_CONFIG_FETCH_RETRY_MINTIMEOUT=1000 NPM_CONFIG_FETCH_RETRY_MAXTIMEOUT=4000
# Of two steps the first installs, and the second has that beside the code.
step=${STEP:-both}
how=install
if [ -f package-lock.json ] || [ -f npm-shrinkwrap.json ]; then
	how=ci
else
	if [ "$step" != build ]; then
		echo "there is no package-lock.json: the newest versions that package.json allows are installed"
		rm -rf node_modules
	fi
fi
if [ "$step" = install ]; then
	npm "$how" 3>&-
elif [ -n "$TARGET" ]; then
	[ "$step" = build ] || npm "$how" 3>&-
	npm run "$TARGET" 3>&-
	npm prune --omit=dev 3>&-
else
	npm "$how" --omit=dev 3>&-
fi
finish
